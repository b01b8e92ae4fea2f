//! `vfio_dma_mapping_test`: memory is mapped, is in the IOMMU's tables in pages as large as its own, and is unmapped.

use super::in_all_modes;
use crate::PASSED;
use crate::context::{Context, Mode};
use crate::harness::Case;
use crate::stage::Staged;
use anyhow::{Context as _, Result, ensure};
use lab::case::Outcome;
use pci::Bdf;
use rustix::io::Errno;
use std::path::Path;
use std::sync::Arc;
use vfio_core::{ErrorKind, Iova, IovaRange, Memory, MemoryOptions, PageSize};

pub(super) fn cases(modes: &[Mode]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, pages) in [
        ("anonymous", PageSize::Base),
        ("anonymous_hugetlb_2mb", PageSize::Huge2M),
        ("anonymous_hugetlb_1gb", PageSize::Huge1G),
    ] {
        for mode in modes {
            let mode = *mode;
            let name = format!("conf_vfio_dma_mapping_test.{}_{name}.dma_map_unmap", mode.name());
            cases.push(Case::new(name, move |staged| dma_map_unmap(staged, mode, pages)));
        }
    }
    cases.extend(in_all_modes(
        "dma_map_limit_test",
        modes,
        &[
            ("unmap_range", unmap_range),
            ("unmap_all", unmap_all),
            ("overflow", overflow),
        ],
    ));
    cases
}

fn memory(pages: PageSize) -> Result<Option<Arc<Memory>>> {
    let options = MemoryOptions {
        pages,
        ..MemoryOptions::default()
    };
    match Memory::new(pages.bytes(), options) {
        Ok(memory) => Ok(Some(Arc::new(memory))),
        Err(error) if error.errno() == Some(Errno::NOMEM) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn dma_map_unmap(staged: &Staged, mode: Mode, pages: PageSize) -> Result<Outcome> {
    let bdf = staged.pf()?;
    let context = Context::open(mode)?;
    let _opened = context.device(bdf)?;
    let Some(memory) = memory(pages)? else {
        return Ok(Outcome::Skipped(format!(
            "the machine has no page of {} bytes left",
            pages.bytes()
        )));
    };
    let len = pages.bytes() as u64;
    let iova = context.place(len, 0)?;
    let mapped = context.map(memory.clone(), 0..memory.len(), iova)?;
    ensure!(mapped.range().start() == iova && mapped.range().len_bytes() == len.into());
    // Version 1 may be asked for base pages where later versions are not: the kernel's suite does not look there either.
    if !mode.is_version_1() {
        check_entry(bdf, iova, pages)?;
    }
    let unmapped = context.unmap(mapped.range())?;
    ensure!(unmapped == len, "{unmapped} of {len} bytes were unmapped");
    ensure!(
        entry(bdf, iova)?.is_none_or(|entry| entry.is_none()),
        "the IOMMU still has it"
    );
    // The guard finds nothing left to do.
    mapped.unmap()?;
    let again = context.map(memory.clone(), 0..memory.len(), iova)?;
    again.unmap()?;
    ensure!(
        entry(bdf, iova)?.is_none_or(|entry| entry.is_none()),
        "the guard left it in the IOMMU"
    );
    PASSED
}

/// An entry of each level of the IOMMU's tables, from the top.
type Entries = [u64; 5];

/// What VT-d's tables have for an address: `None` on a kernel that does not show them, `Some(None)` for nothing.
fn entry(bdf: Bdf, iova: Iova) -> Result<Option<Option<Entries>>> {
    let intel = Path::new("/sys/kernel/debug/iommu/intel");
    if !intel.exists() {
        return Ok(None);
    }
    let text = crate::machine::read(intel.join(bdf.to_string()).join("domain_translation_struct"))?;
    // `0x0000000000100 |	0x…	0x…`: page number, then the entries as far as they go.
    let parse = |line: &str| {
        let mut words = line
            .split([' ', '\t', '|'])
            .filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
        let page = words.next()?;
        let mut entries = [0; 5];
        entries.iter_mut().zip(words).for_each(|(to, from)| *to = from);
        (page == iova.0 >> 12).then_some(entries)
    };
    Ok(Some(text.lines().find_map(parse)))
}

/// Memory on large pages has large entries: one level ends there.
fn check_entry(bdf: Bdf, iova: Iova, pages: PageSize) -> Result<()> {
    let Some(found) = entry(bdf, iova)? else { return Ok(()) };
    let entries = found.with_context(|| format!("{iova} is not in the IOMMU's tables"))?;
    let [_, _, pud, pmd, pte] = entries;
    let right = match pages {
        PageSize::Huge1G => pud != 0 && pmd == 0 && pte == 0,
        PageSize::Huge2M => pmd != 0 && pte == 0,
        _ => pte != 0,
    };
    ensure!(right, "{pages:?} at {iova} is mapped by {entries:x?}");
    Ok(())
}

/// A page of memory and the last page of the address space.
fn last_page(context: &Context) -> Result<(Arc<Memory>, Iova)> {
    let memory = memory(PageSize::Base)?.context("no memory")?;
    let last = context.ranges()?.pop().context("no range")?.last();
    Ok((memory, Iova(last.0 & !0xfff)))
}

fn unmap_range(staged: &Staged, mode: Mode) -> Result<Outcome> {
    let context = Context::open(mode)?;
    let _opened = context.device(staged.pf()?)?;
    let (memory, iova) = last_page(&context)?;
    let mapped = context.map(memory.clone(), 0..memory.len(), iova)?;
    let unmapped = context.unmap(mapped.range())?;
    ensure!(unmapped == 4096, "{unmapped} bytes");
    PASSED
}

fn unmap_all(staged: &Staged, mode: Mode) -> Result<Outcome> {
    let context = Context::open(mode)?;
    let _opened = context.device(staged.pf()?)?;
    let (memory, iova) = last_page(&context)?;
    let mapped = context.map(memory.clone(), 0..memory.len(), iova)?;
    let unmapped = context.unmap_all()?;
    ensure!(unmapped == 4096, "{unmapped} bytes");
    mapped.unmap()?;
    PASSED
}

/// Two pages at the last page of all addresses: there is no such range, and mapping there fails with EOVERFLOW.
fn overflow(staged: &Staged, mode: Mode) -> Result<Outcome> {
    let context = Context::open(mode)?;
    let _opened = context.device(staged.pf()?)?;
    let options = MemoryOptions::default();
    let memory = Arc::new(Memory::new(8192, options)?);
    let top = Iova(u64::MAX & !0xfff);
    ensure!(IovaRange::new(top, 8192).is_none());
    let error = match context.map(memory.clone(), 0..8192, top) {
        Ok(mapped) => anyhow::bail!("it was mapped at {}", mapped.range()),
        Err(error) => error,
    };
    ensure!(error.kind == ErrorKind::Os(Errno::OVERFLOW), "{error}");
    PASSED
}
