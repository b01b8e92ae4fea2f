//! `IOMMU_IOAS_*` (`ioas.c`).

use super::context::{Context, Env, Kind};
use super::pages::{Account, Accounts, PAGE, Pages, Source};
use super::table::{Area, Part, Table};
use crate::Access;
use crate::sys::Result;
use crate::sys::iommufd::Id;
use rustix::io::Errno;

/// An I/O address space.
#[derive(Debug, Default)]
pub(crate) struct Ioas {
    pub(crate) table: Table,
    /// Made by the kernel for a group that was added to this file as to a container.
    pub(crate) automatic: bool,
}

impl Ioas {
    pub(crate) fn map(
        &mut self,
        accounts: &mut Accounts,
        parts: &[Part],
        iova: Option<u64>,
        access: Access,
    ) -> Result<u64> {
        let start = self.table.map(parts, iova, access)?;
        if !self.table.filled() {
            return Ok(start);
        }
        let mut pinned: Vec<&Part> = Vec::new();
        for part in parts {
            if let Err(errno) = accounts.pin(&part.pages, part.start_byte, part.len) {
                for part in pinned {
                    accounts.unpin(&part.pages, part.start_byte, part.len);
                }
                let len = parts.iter().map(|part| part.len).sum::<u64>();
                // Just mapped, and nothing holds it yet.
                let (_, _, _) = self.table.unmap(start, start + (len - 1));
                return Err(errno);
            }
            pinned.push(part);
        }
        Ok(start)
    }

    /// Unmaps a range; how many bytes went, and why no more.
    pub(crate) fn unmap(&mut self, accounts: &mut Accounts, start: u64, last: u64) -> (u64, Result<()>) {
        let (removed, bytes, result) = self.table.unmap(start, last);
        if self.table.filled() {
            for (iova, area) in removed {
                accounts.unpin(&area.pages, area.start_byte, area.last - iova + 1);
            }
        }
        (bytes, result)
    }

    /// Fills a page table from here; the first one pins the memory.
    pub(crate) fn fill(
        &mut self,
        accounts: &mut Accounts,
        hwpt: Id,
        smallest_page: u64,
        aperture: (u64, u64),
    ) -> Result<()> {
        let first = !self.table.filled();
        self.table.add_table(hwpt, smallest_page, aperture)?;
        if !first {
            return Ok(());
        }
        let mut failure = None;
        let mut pinned = Vec::new();
        for (start, area) in self.table.areas() {
            let len = area.last - start + 1;
            if let Err(errno) = accounts.pin(&area.pages, area.start_byte, len) {
                failure = Some(errno);
                break;
            }
            pinned.push((area, len));
        }
        let Some(errno) = failure else { return Ok(()) };
        for (area, len) in pinned {
            accounts.unpin(&area.pages, area.start_byte, len);
        }
        self.table.remove_table(hwpt);
        Err(errno)
    }

    pub(crate) fn unfill(&mut self, accounts: &mut Accounts, hwpt: Id) {
        let before = self.table.filled();
        self.table.remove_table(hwpt);
        if before && !self.table.filled() {
            for (start, area) in self.table.areas() {
                accounts.unpin(&area.pages, area.start_byte, area.last - start + 1);
            }
        }
    }

    /// Makes an area end at `last`.
    pub(crate) fn cut(&mut self, accounts: &mut Accounts, last: u64) -> Result<()> {
        let before: Option<(u64, Area)> = self.table.find(last).map(|(start, area)| (start, area.clone()));
        self.table.cut(last)?;
        let Some((start, area)) = before.filter(|(_, area)| self.table.filled() && area.last != last) else {
            return Ok(());
        };
        accounts.unpin(&area.pages, area.start_byte, area.last - start + 1);
        accounts.pin(&area.pages, area.start_byte, last - start + 1)?;
        accounts.pin(&area.pages, area.start_byte + (last + 1 - start), area.last - last)
    }
}

impl Context {
    pub(crate) fn ioas_alloc(&mut self) -> Id {
        let id = self.new_id(Kind::Ioas);
        self.ioas.insert(id, Ioas::default());
        id
    }

    pub(crate) fn ioas(&mut self, id: Id) -> Result<&mut Ioas> {
        self.ioas.get_mut(&id).ok_or(Errno::NOENT)
    }

    pub(crate) fn ioas_iova_ranges(&mut self, id: Id, to: &mut [(u64, u64)]) -> Result<(u32, u64)> {
        let table = &self.ioas(id)?.table;
        let ranges = table.ranges();
        for (to, range) in to.iter_mut().zip(&ranges) {
            *to = *range;
        }
        let count = u32::try_from(ranges.len()).map_err(|_error| Errno::OVERFLOW)?;
        Ok((count, table.alignment()))
    }

    pub(crate) fn ioas_map(
        &mut self,
        env: &mut Env<'_>,
        id: Id,
        (source, len): (Source, u64),
        iova: Option<u64>,
        access: Access,
    ) -> Result<u64> {
        check_map(len, iova, access)?;
        let account = match source {
            Source::Registers { .. } => Account::None,
            Source::Memory { .. } | Source::File { .. } => self.account(),
        };
        let ioas = self.ioas(id)?;
        if len == 0 {
            return Err(Errno::INVAL);
        }
        let pages = Pages::new(env.accounts, source, len, access.contains(Access::WRITE), account);
        let start_byte = pages.head();
        ioas.map(env.accounts, &[Part { pages, start_byte, len }], iova, access)
    }

    pub(crate) fn ioas_copy(
        &mut self,
        env: &mut Env<'_>,
        to: Id,
        from: (Id, u64),
        len: u64,
        iova: Option<u64>,
        access: Access,
    ) -> Result<u64> {
        check_map(len, iova.max(Some(from.1)), access)?;
        let parts = self.ioas(from.0)?.table.parts(from.1, len)?;
        self.ioas(to)?.map(env.accounts, &parts, iova, access)
    }

    pub(crate) fn ioas_unmap(&mut self, env: &mut Env<'_>, id: Id, iova: u64, len: u64) -> Result<u64> {
        let ioas = self.ioas(id)?;
        if (iova, len) == (0, u64::MAX) {
            let (bytes, result) = ioas.unmap(env.accounts, 0, u64::MAX);
            return result.map(|()| bytes);
        }
        if iova == u64::MAX || len == u64::MAX {
            return Err(Errno::OVERFLOW);
        }
        let less_one = len.checked_sub(1).ok_or(Errno::INVAL)?;
        let last = iova.checked_add(less_one).ok_or(Errno::OVERFLOW)?;
        match ioas.unmap(env.accounts, iova, last) {
            (0, Ok(())) => Err(Errno::NOENT),
            (bytes, result) => result.map(|()| bytes),
        }
    }

    /// Files may move to another process, memory of one may not. There is one process here, so nothing else changes.
    pub(crate) fn change_process(&self) -> Result<()> {
        let is_file = |area: &Area| matches!(area.pages.source(), Source::File { .. });
        let all = self
            .ioas
            .values()
            .all(|ioas| ioas.table.areas().all(|(_, area)| is_file(area)));
        if all { Ok(()) } else { Err(Errno::INVAL) }
    }

    /// Of an IOAS that a device without an IOMMU uses.
    pub(crate) fn noiommu_get_pa(&mut self, id: Id, iova: u64) -> Result<(u64, u64)> {
        if iova == u64::MAX {
            return Err(Errno::OVERFLOW);
        }
        let noiommu = self.hwpts.values().any(|hwpt| hwpt.noiommu && hwpt.ioas() == Some(id));
        let (start, area) = self.ioas(id)?.table.find(iova).ok_or(Errno::NOENT)?;
        if !noiommu {
            return Err(Errno::OPNOTSUPP);
        }
        let physical = area.pages.physical(area.start_byte + (iova - start));
        Ok((physical, area.last - iova + 1))
    }

    pub(crate) fn option(&mut self, option: u32, object: Id, set: Option<u64>) -> Result<u64> {
        use iommufd_bindings::iommufd::{
            iommufd_option_IOMMU_OPTION_HUGE_PAGES as HUGE_PAGES,
            iommufd_option_IOMMU_OPTION_RLIMIT_MODE as RLIMIT_MODE,
        };
        match option {
            RLIMIT_MODE if object != 0 => Err(Errno::OPNOTSUPP),
            RLIMIT_MODE => match set {
                None => Ok(u64::from(self.account_process)),
                Some(_) if !self.is_empty() => Err(Errno::BUSY),
                Some(mode @ (0 | 1)) => {
                    self.account_process = mode == 1;
                    Ok(mode)
                }
                Some(_) => Err(Errno::INVAL),
            },
            HUGE_PAGES => {
                let table = &mut self.ioas(object)?.table;
                match set {
                    None => Ok(u64::from(table.large_pages())),
                    Some(on @ (0 | 1)) => table.set_large_pages(on == 1).map(|()| on),
                    Some(_) => Err(Errno::INVAL),
                }
            }
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    pub(crate) fn vfio_ioas_set(&mut self, id: Id) -> Result<()> {
        self.ioas(id)?;
        self.vfio_ioas = Some(id);
        Ok(())
    }

    /// The IOAS that the commands of a container act on.
    pub(crate) fn compatible_ioas(&self) -> Result<Id> {
        self.vfio_ioas.ok_or(Errno::NODEV)
    }

    /// Makes sure there is one (`iommufd_vfio_compat_ioas_create`).
    pub(crate) fn ensure_compatible_ioas(&mut self) -> Result<()> {
        if self.noiommu_mode {
            return Err(Errno::INVAL);
        }
        if self.vfio_ioas.is_none() {
            let id = self.ioas_alloc();
            self.ioas(id)?.automatic = true;
            self.vfio_ioas = Some(id);
        }
        Ok(())
    }
}

fn check_map(len: u64, iova: Option<u64>, access: Access) -> Result<()> {
    if iova == Some(u64::MAX) || len == u64::MAX {
        return Err(Errno::OVERFLOW);
    }
    if !access.intersects(Access::READ | Access::WRITE) {
        Err(Errno::INVAL)
    } else {
        Ok(())
    }
}

const _: () = assert!(PAGE.is_power_of_two());
