//! Mapping and unmapping: ours, bare calls on the very same address space, and other crates.
//!
//! All ways map the same memory at the same place, which ours chose, after one pass each that is not timed, and take their turns back and
//! forth. `vfio-ioctls` opens its own container or iommufd, with a function of its own.

mod cases;
mod wall;
mod way;

use super::meter::{median, order};
use super::{Case, Session};
use crate::record::Clock;
use anyhow::{Context, Result};
use cases::{Kind, Shape};
use iommu::OpenOptions;
use iommu::space::{AddressSpace, Attached, MapOptions};
use pci::Bdf;
use raw_calls::{Container, Ioas, IommufdIoctls, Table, VfioIoctls};
use std::path::PathBuf;
use std::sync::Arc;
use vfio_core::{Access, Backend, Iova, Memory, MemoryOptions};
use way::{Bare, Ours, Way};

const SUITE: &str = "map";
/// Bare calls that map what is mapped already.
const COPY: &str = "raw, copy of a mapping";
const BOTH: Access = Access::READ.union(Access::WRITE);

/// Measures on one function, and with a second one for `vfio-ioctls`.
///
/// # Errors
/// Of ours, and of bare calls where ours succeeded. What others cannot do is told.
pub fn run(session: &mut Session, functions: &[Bdf]) -> Result<()> {
    let function = *functions.first().context("no function to measure on")?;
    let mut is_measured = false;
    for backend in cases::BACKENDS {
        if session.is_quick && is_measured {
            break;
        }
        let attached = match OpenOptions::default().only(backend).open(function) {
            Ok(attached) => attached,
            Err(error) => {
                session.miss(SUITE, &format!("map, {backend}"), "ours", &error)?;
                continue;
            }
        };
        is_measured = true;
        let bench = Bench::new(session, attached, backend, functions.get(1).copied())?;
        for shape in cases::shapes(session.is_quick, session.meter.clock()) {
            bench.measure(session, &shape)?;
        }
        if session.meter.clock() == Clock::Wall {
            let space = bench.attached.space();
            wall::untouched(session, space, backend, &bench.bare)?;
            wall::threads(session, space, backend, &bench.bare)?;
        }
    }
    if session.meter.clock() == Clock::Wall {
        wall::touch(session)?;
    }
    Ok(())
}

/// An interface, open by every way that there is.
struct Bench {
    attached: Attached,
    backend: Backend,
    bare: Arc<dyn Table>,
    others: Vec<(&'static str, Arc<dyn Table>)>,
}

impl Bench {
    fn new(session: &mut Session, attached: Attached, backend: Backend, second: Option<Bdf>) -> Result<Self> {
        let name = format!("map, {backend}");
        let mut others: Vec<(&'static str, Arc<dyn Table>)> = Vec::new();
        match attached.space().ioas() {
            Some(ioas) => {
                let table = IommufdIoctls::new(ioas.iommufd().try_clone_fd()?, ioas.id().0);
                others.push(("iommufd-ioctls", Arc::new(table)));
            }
            None => {
                session.miss(SUITE, &name, "iommufd-ioctls", "it has no containers")?;
                let reason = "no call of a container maps without pinning, so the two are not separated";
                session.miss(SUITE, &name, COPY, &reason)?;
            }
        }
        let theirs: Result<Arc<dyn Table>, String> = match (second, backend) {
            (_, Backend::CompatType1v2) => Err("it opens /dev/vfio/vfio, whichever container is asked for".to_owned()),
            (None, _) => Err("it needs a function of its own, and only one was given".to_owned()),
            (Some(second), _) => {
                let open = match backend {
                    Backend::Iommufd => VfioIoctls::iommufd,
                    _ => VfioIoctls::container,
                };
                let opened = open(&directory(second));
                opened
                    .map(|table| Arc::new(table) as Arc<dyn Table>)
                    .map_err(|error| error.to_string())
            }
        };
        match theirs {
            Ok(table) => others.push(("vfio-ioctls", table)),
            Err(reason) => session.miss(SUITE, &name, "vfio-ioctls", &reason)?,
        }
        Ok(Self {
            bare: bare(attached.space())?,
            attached,
            backend,
            others,
        })
    }

    fn measure(&self, session: &mut Session, shape: &Shape) -> Result<()> {
        let name = format!("{}, {}", shape.name(), self.backend);
        if !session.wants(&format!("map {name}")) {
            return Ok(());
        }
        let memory = match shape.memory() {
            Ok(memory) => Arc::new(memory),
            Err(error) => return session.miss(SUITE, &format!("map {name}"), "ours", &format!("{error:#}")),
        };
        let space = self.attached.space();
        let options = MapOptions::new(BOTH);
        // A container maps what the process has of a file, as it maps all else.
        let is_file = shape.kind == Kind::Memfd && space.ioas().is_some();
        // A space of nothing else would make and drop its trees' nodes each time, which no program does.
        let beside = Arc::new(Memory::new(4096, MemoryOptions::default())?);
        let _beside = space.map(&beside, 0..4096, options)?;
        let probe = space.map(&memory, 0..shape.bytes, options)?;
        let iova = probe.iova();
        probe.unmap()?;
        let mut ways: Vec<Box<dyn Way>> = vec![
            Box::new(Ours::new("ours", space, &memory, is_file, options)),
            Box::new(Ours::new("ours, IOVA given", space, &memory, is_file, options.at(iova))),
            Box::new(Bare::new("raw", &self.bare_for(is_file, &memory)?, &memory, iova)?),
        ];
        if !is_file {
            for (name, table) in &self.others {
                ways.push(Box::new(Bare::new(name, table, &memory, iova)?));
            }
        }
        let given = [
            ("interface", self.backend.to_string()),
            ("memory", shape.kind.name().to_owned()),
            ("bytes", shape.bytes.to_string()),
        ];
        let given: Vec<(&str, &str)> = given.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let map = Case::new(SUITE, format!("map {name}"), &given);
        let unmap = Case::new(SUITE, format!("unmap {name}"), &given);
        alternate(session, shape, ways, [&map, &unmap])?;
        if is_file || space.ioas().is_none() {
            return Ok(());
        }
        // Its pages are pinned by another mapping. Unmapping the copy is the IOMMU's part alone; mapping it reads addresses back from the
        // IOMMU's tables instead of pinning.
        let whole = space.map(&memory, 0..shape.bytes, options)?;
        let probe = space.map(&memory, 0..shape.bytes, options)?;
        let (from, iova) = (whole.iova(), probe.iova());
        probe.unmap()?;
        whole.unmap()?;
        let copy: Arc<dyn Table> = Arc::new(raw_calls::Copy::new(raw_ioas(space)?, &memory, from)?);
        let ways: Vec<Box<dyn Way>> = vec![Box::new(Bare::new(COPY, &copy, &memory, iova)?)];
        alternate(session, shape, ways, [&map, &unmap])
    }

    fn bare_for(&self, is_file: bool, memory: &Arc<Memory>) -> Result<Arc<dyn Table>> {
        Ok(if is_file {
            Arc::new(raw_calls::IoasFile::new(raw_ioas(self.attached.space())?, memory)?)
        } else {
            Arc::clone(&self.bare)
        })
    }
}

/// Lets all ways take their turns, and tells what each took. A way of others that fails is left out, and said.
fn alternate(session: &mut Session, shape: &Shape, mut ways: Vec<Box<dyn Way>>, cases: [&Case; 2]) -> Result<()> {
    let (turns, iterations) = (shape.turns(session.is_quick), shape.iterations());
    let mut figures = vec![[Vec::new(), Vec::new()]; ways.len()];
    let mut failed: Vec<Option<anyhow::Error>> = ways.iter().map(|_| None).collect();
    for turn in 0..=turns {
        for place in order(ways.len(), turn) {
            let (Some(way), Some(figures), Some(failed)) =
                (ways.get_mut(place), figures.get_mut(place), failed.get_mut(place))
            else {
                continue;
            };
            if failed.is_some() {
                continue;
            }
            match timed(session, &mut **way, if turn == 0 { 1 } else { iterations }) {
                Ok(took) if turn > 0 => figures.iter_mut().zip(took).for_each(|(all, one)| all.push(one)),
                // The first pass is for caches and lists to fill.
                Ok(_) => {}
                Err(error) if way.is_ours() => {
                    return Err(error.context(cases.map(|case| case.name.as_str()).join("; ")));
                }
                Err(error) => *failed = Some(error),
            }
        }
    }
    for ((way, figures), failed) in ways.iter().zip(figures).zip(failed) {
        for (case, turns) in cases.into_iter().zip(figures) {
            match &failed {
                Some(error) => session.miss(case.suite, &case.name, way.name(), &format!("{error:#}"))?,
                None => session.tell(case, way.name(), turns)?,
            }
        }
    }
    Ok(())
}

/// Maps and unmaps so many times: the medians of both.
fn timed(session: &Session, way: &mut dyn Way, iterations: usize) -> Result<[f64; 2]> {
    let meter = session.meter;
    let (mut maps, mut unmaps) = (Vec::with_capacity(iterations), Vec::with_capacity(iterations));
    for _ in 0..iterations {
        let begin = meter.look();
        way.map()?;
        let mapped = meter.look();
        way.unmap()?;
        let end = meter.look();
        maps.push(meter.between(begin, mapped));
        unmaps.push(meter.between(mapped, end));
    }
    Ok([median(&maps), median(&unmaps)])
}

fn raw_ioas(space: &AddressSpace) -> Result<Ioas> {
    Ok(Ioas::new(space.ioas().context("no iommufd")?)?)
}

fn directory(bdf: Bdf) -> PathBuf {
    PathBuf::from(format!("/sys/bus/pci/devices/{bdf}"))
}

/// Bare calls on a space.
pub(super) fn bare(space: &AddressSpace) -> Result<Arc<dyn Table>> {
    Ok(match space.container() {
        Some(container) => Arc::new(Container(container.try_clone_fd()?)),
        None => Arc::new(raw_ioas(space)?),
    })
}

/// Where ours maps so much, and where nothing is mapped now.
pub(super) fn room(space: &AddressSpace, len: usize) -> Result<Iova> {
    let memory = Arc::new(Memory::new(len, MemoryOptions::default())?);
    let mapping = space.map(&memory, 0..len, MapOptions::new(BOTH))?;
    let iova = mapping.iova();
    mapping.unmap()?;
    Ok(iova)
}
