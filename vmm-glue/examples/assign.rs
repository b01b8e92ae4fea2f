//! Boots a Linux guest with functions of the host: `assign --kernel FILE --initrd FILE [--append WORDS] [--memory MIB] [--cpus N] [--type1]
//! [--cycle TIMES] FUNCTION…`. The functions are on vfio-pci. Ends when the guest does.
//!
//! With `--cycle` the guest starts without functions; then each is plugged in and taken out again so many times, and the guest is ended.
#![expect(clippy::print_stderr, reason = "an example's output")]

use anyhow::{Context, Result};
use pci::{Bdf, Sysfs};
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_core::iommufd::Iommufd;
use vfio_core::{CdevFile, Container, ContainerPath, EventFd, Group, PageSize, System};
use vmm_glue::dma::Pin;
use vmm_glue::functions::{self, Backend, DmaOptions, Functions, Opened, Parts};
use vmm_glue::kvm::Kvm;
use vmm_glue::machine::{Console, Files, Machine, Plugged, Reboot, Spec};
use vmm_glue::memory::Node;

#[derive(Debug, Default)]
struct Arguments {
    kernel: String,
    initrd: String,
    append: String,
    memory_mib: u64,
    cpus: u32,
    is_type1: bool,
    cycles: u32,
    functions: Vec<Bdf>,
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments {
        append: "console=ttyS0 quiet panic=-1 pcie_ports=native lab.role=guest".to_owned(),
        memory_mib: 512,
        cpus: 1,
        ..Arguments::default()
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--kernel" => arguments.kernel = value()?,
            "--initrd" => arguments.initrd = value()?,
            "--append" => arguments.append = value()?,
            "--memory" => arguments.memory_mib = value()?.parse()?,
            "--cpus" => arguments.cpus = value()?.parse()?,
            "--cycle" => arguments.cycles = value()?.parse()?,
            "--type1" => arguments.is_type1 = true,
            function => arguments.functions.push(function.parse()?),
        }
    }
    Ok(arguments)
}

fn open(bdf: Bdf, is_type1: bool, system: &System, sysfs: &Sysfs) -> Result<Opened> {
    let file = if is_type1 {
        let link = sysfs.link_name(format!("sys/bus/pci/devices/{bdf}/iommu_group"));
        let id = link.ok().and_then(|name| name.parse().ok()).context("no IOMMU group")?;
        functions::File::Group(Group::open(system, pci::GroupId(id))?)
    } else {
        functions::File::Device(CdevFile::open_bdf(system, sysfs, bdf)?)
    };
    Ok(Opened { bdf, file, token: None })
}

fn main() -> Result<()> {
    let began = Instant::now();
    let arguments = arguments()?;
    let (system, sysfs) = (System::host(), Sysfs::host());
    let node = Node {
        len_bytes: arguments.memory_mib << 20,
        vcpus: arguments.cpus,
        host: None,
    };
    let spec = Spec {
        nodes: vec![node],
        pci_node: None,
        pages: PageSize::Transparent,
        command_line: arguments.append.clone(),
        reboot: Reboot::End,
        has_exit_port: false,
    };
    let files = Files {
        kvm: Kvm::open(Path::new("/dev/kvm"))?,
        kernel: File::open(&arguments.kernel)?,
        initrd: Some(File::open(&arguments.initrd)?),
        console: Console {
            input: None,
            output: std::io::stdout().as_fd().try_clone_to_owned()?,
        },
    };
    let mut machine = Machine::new(spec, files)?;
    let parts = Parts {
        irqs: Arc::new(machine.vm().irqs().clone()),
        slots: Arc::new(machine.vm().slots().clone()),
        bus: Arc::clone(machine.mmio()),
        memory: machine.memory().clone(),
        windows: machine.windows(),
        kvm: Some(machine.vm().vfio()?),
    };
    let options = functions::Options {
        dma: DmaOptions {
            pin: Pin::All,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        },
        free_slots: 2,
        shown: vmm_glue::assigned::Options::default(),
        are_peers: true,
    };
    let backend = if arguments.is_type1 {
        Backend::Type1(Container::open(&system, ContainerPath::Vfio)?)
    } else {
        Backend::Iommufd(Iommufd::open(&system)?)
    };
    let at_first = if arguments.cycles == 0 {
        &arguments.functions[..]
    } else {
        &[]
    };
    let slots = at_first
        .iter()
        .map(|bdf| Ok(vec![open(*bdf, arguments.is_type1, &system, &sysfs)?]));
    let slots = slots.collect::<Result<Vec<_>>>()?;
    let mapping = Instant::now();
    let functions = Arc::new(Functions::new(parts, options, backend, slots, &mut |_, _| ())?);
    eprintln!(
        "assign: {:?}, {:?} for functions and memory",
        functions.list(),
        mapping.elapsed()
    );
    let plugged: Arc<dyn Plugged> = Arc::<Functions>::clone(&functions);
    machine.connect(functions.root(), plugged)?;
    functions.serve()?;
    let handle = machine.handle();
    let cycles = (arguments.cycles != 0).then(|| {
        let functions = Arc::clone(&functions);
        std::thread::spawn(move || {
            let cycled = cycle(&arguments, &functions, &system, &sysfs);
            let stopped = handle.stop();
            cycled.and(stopped.map_err(Into::into))
        })
    });
    let end = machine.run()?;
    if let Some(thread) = cycles {
        thread
            .join()
            .map_err(|_panic| anyhow::anyhow!("the thread has panicked"))??;
    }
    eprintln!("assign: {end:?} after {:?}", began.elapsed());
    Ok(())
}

/// Plugs functions in and out.
fn cycle(arguments: &Arguments, functions: &Functions, system: &System, sysfs: &Sysfs) -> Result<()> {
    let nobody = EventFd::new()?;
    // Until the guest has a driver for its ports.
    nobody.wait_timeout(Duration::from_secs(12))?;
    for number in 0..arguments.cycles {
        for bdf in &arguments.functions {
            let began = Instant::now();
            let listed = functions.add(vec![open(*bdf, arguments.is_type1, system, sysfs)?])?;
            // Until the guest's driver has it.
            nobody.wait_timeout(Duration::from_secs(4))?;
            let slots: Vec<_> = functions.root().ports().iter().map(|port| port.state()).collect();
            eprintln!("assign: {slots:?}");
            functions.remove(*bdf, Duration::from_secs(40))?;
            let files = std::fs::read_dir("/proc/self/fd")?.count();
            let maps = std::io::BufRead::lines(std::io::BufReader::new(File::open("/proc/self/maps")?)).count();
            eprintln!(
                "assign: {number}: {listed:?}, in and out in {:?}, {files} files, {maps} maps",
                began.elapsed()
            );
        }
    }
    Ok(())
}
