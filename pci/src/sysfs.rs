//! The only way from this crate to a file: a root directory under which `sys/`, `proc/`, `dev/` and `usr/` lie.
//!
//! A captured tree is hostile input: no symbolic link leads out of it (`openat2` with `RESOLVE_BENEATH`), nothing but a
//! regular file is read, and every read has a limit. [`Sysfs`] takes paths from the root; `Dir` is an open directory for
//! readers that want many files of it.

use crate::{Reading, Reason};
use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, fstat, openat, openat2, readlinkat_raw};
use rustix::io::{Errno, retry_on_intr};
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// A handle on a system tree: the running machine (`/`) or a captured one.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

/// How many bytes [`Sysfs::read`] accepts. An attribute of sysfs is at most one page.
const TEXT_LIMIT: usize = 64 << 10;

/// How many names [`Sysfs::names`] accepts in one directory: more than the functions of 16 full segments.
const NAMES_LIMIT: usize = 1 << 20;

const NOT_A_LINK: &str = "not a symbolic link";

/// `NONBLOCK` so that a FIFO in place of a file cannot hold us; it is then refused by its type.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Sysfs {
    /// The running machine.
    #[must_use]
    pub fn host() -> Self {
        Self::at("/")
    }

    /// The tree below `root`: expects `root/sys/bus/pci`, and for some questions `root/proc`, `root/dev` and `root/usr`. Reading
    /// any tree but `/` takes `openat2`, which Linux has since 5.6.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this is the running machine and not a captured tree.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The path of a file given relative to the root (`sys/bus/pci/devices`); a leading slash is ignored.
    #[must_use]
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        let relative = relative.as_ref();
        self.root.join(relative.strip_prefix("/").unwrap_or(relative))
    }

    /// The text of a file, without white space at its ends; at most 64 KiB.
    ///
    /// # Errors
    /// Why the text is not known; [`Reason::Malformed`] when it is not UTF-8.
    pub fn read(&self, path: impl AsRef<Path>) -> Reading<String> {
        let path = path.as_ref();
        let bytes = self.read_bytes(path, TEXT_LIMIT)?;
        let text = text(&bytes).map_err(|reason| reason.at(self.path(path)))?;
        Ok(text.to_owned())
    }

    /// The bytes of a file of at most `limit` bytes.
    ///
    /// # Errors
    /// Why the bytes are not known; [`Reason::TooLarge`] when there are more.
    pub fn read_bytes(&self, path: impl AsRef<Path>, limit: usize) -> Reading<Vec<u8>> {
        let path = path.as_ref();
        let read = || {
            let file = self.open(path, FILE)?;
            let size = regular(&file)?;
            // A file of sysfs claims 4096 bytes, one of procfs none: the size is only a first guess.
            let mut bytes = vec![0; size.clamp(512, limit.max(512)).saturating_add(1)];
            let mut len = 0;
            loop {
                len += fill(&file, bytes.get_mut(len..).unwrap_or_default())?;
                if len > limit {
                    return Err(Reason::TooLarge(limit));
                }
                if len < bytes.len() {
                    bytes.truncate(len);
                    return Ok(bytes);
                }
                bytes.resize(len.saturating_mul(2), 0);
            }
        };
        read().map_err(|reason| reason.at(self.path(path)))
    }

    /// What a symbolic link says, unresolved.
    ///
    /// # Errors
    /// Why it is not known; [`Reason::Malformed`] when it is no link.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Reading<PathBuf> {
        let path = path.as_ref();
        let read = || {
            let link = self.open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
            // An empty name is the link itself; for anything but a link it is no name at all.
            let target = rustix::fs::readlinkat(&link, c"", Vec::new()).map_err(|errno| match errno {
                Errno::NOENT | Errno::INVAL => Reason::malformed(NOT_A_LINK),
                other => other.into(),
            })?;
            Ok(PathBuf::from(String::from_utf8_lossy(target.as_bytes()).into_owned()))
        };
        read().map_err(|reason: Reason| reason.at(self.path(path)))
    }

    /// The last component of what a symbolic link says: the driver's name of a `driver` link.
    ///
    /// # Errors
    /// As [`read_link`](Self::read_link).
    pub fn link_name(&self, path: impl AsRef<Path>) -> Reading<String> {
        let path = path.as_ref();
        let target = self.read_link(path)?;
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned());
        name.ok_or_else(|| Reason::malformed(&target.to_string_lossy()).at(self.path(path)))
    }

    /// The names in a directory, sorted; at most 1,048,576.
    ///
    /// # Errors
    /// Why they are not known.
    pub fn names(&self, path: impl AsRef<Path>) -> Reading<Vec<String>> {
        let path = path.as_ref();
        let list = || {
            let mut names = Vec::new();
            Dir::open(self, path)?.each(|entry| names.push(entry.name.to_owned()))?;
            names.sort_unstable();
            Ok(names)
        };
        list().map_err(|reason: Reason| reason.at(self.path(path)))
    }

    /// Opens a path without leaving the root.
    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Reason> {
        let path = below(path);
        if self.is_host() {
            // Nothing is outside of `/`.
            return Ok(openat(CWD, Path::new("/").join(path), flags, Mode::empty())?);
        }
        let root = openat(CWD, &self.root, DIRECTORY, Mode::empty())?;
        // The kernel gives up on `..` with EAGAIN when anything at all was renamed meanwhile.
        const TRIES: usize = 32;
        let mut result = Err(Errno::AGAIN);
        for _ in 0..TRIES {
            result = openat2(&root, path, flags, Mode::empty(), ResolveFlags::BENEATH);
            if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
        }
        Ok(result?)
    }
}

/// An open directory. Names given to it are single components.
#[derive(Debug)]
pub(crate) struct Dir<'s> {
    sysfs: &'s Sysfs,
    path: PathBuf,
    fd: OwnedFd,
}

/// One name in a directory.
pub(crate) struct Entry<'n> {
    pub(crate) name: &'n str,
    pub(crate) is_link: bool,
}

/// Where a reader of many files keeps the text of one: allocated once.
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    pub(crate) fn new() -> Self {
        Self(vec![0; TEXT_LIMIT + 1].into())
    }
}

impl<'s> Dir<'s> {
    pub(crate) fn open(sysfs: &'s Sysfs, path: impl Into<PathBuf>) -> Result<Self, Reason> {
        let path = path.into();
        let fd = sysfs.open(&path, DIRECTORY)?;
        Ok(Self { sysfs, path, fd })
    }

    /// The directory `name`, if it is one and not a link to one.
    pub(crate) fn subdir(&self, name: &str) -> Result<Self, Reason> {
        let fd = openat(&self.fd, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        let path = self.path.join(name);
        Ok(Self { fd, path, ..*self })
    }

    /// Its path from the root.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` for people, from the root of the machine that reads.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.sysfs.path(self.path.join(name))
    }

    /// The trimmed text of the file `name`. One read: the kernel hands out an attribute at once.
    pub(crate) fn text<'b>(&self, name: &str, buffer: &'b mut Buffer) -> Result<&'b str, Reason> {
        let file = match openat(&self.fd, name, FILE | OFlags::NOFOLLOW, Mode::empty()) {
            // A link, which sysfs never has here: take the way that stays below the root.
            Err(Errno::LOOP) => self.sysfs.open(&self.path.join(name), FILE)?,
            other => other?,
        };
        match retry_on_intr(|| rustix::io::read(&file, &mut *buffer.0)) {
            Ok(len @ 1..=TEXT_LIMIT) => text(buffer.0.get(..len).unwrap_or_default()),
            Ok(1..) => Err(Reason::TooLarge(TEXT_LIMIT)),
            // Nothing came: an empty file, or a FIFO or the like.
            nothing => regular(&file).and(Ok(nothing.map(|_| "")?)),
        }
    }

    /// What `parse` makes of the text of the file `name`; malformed where it makes nothing of it.
    pub(crate) fn parse<T>(
        &self,
        name: &str,
        buffer: &mut Buffer,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Reason> {
        let text = self.text(name, buffer)?;
        parse(text).ok_or_else(|| Reason::malformed(text))
    }

    /// What the symbolic link `name` says.
    pub(crate) fn link<'b>(&self, name: &str, buffer: &'b mut Buffer) -> Result<&'b str, Reason> {
        let len = readlinkat_raw(&self.fd, name, &mut *buffer.0).map_err(|errno| match errno {
            Errno::INVAL => Reason::malformed(NOT_A_LINK),
            other => other.into(),
        })?;
        text(buffer.0.get(..len).unwrap_or_default())
    }

    /// The last component of what the symbolic link `name` says.
    pub(crate) fn link_name<'b>(&self, name: &str, buffer: &'b mut Buffer) -> Result<&'b str, Reason> {
        let target = self.link(name, buffer)?;
        let last = target
            .rsplit('/')
            .next()
            .filter(|name| !matches!(*name, "" | "." | ".."));
        last.ok_or_else(|| Reason::malformed(target))
    }

    /// Whether there is something of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&self.fd, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Calls `f` for every name but `.` and `..`, in no order.
    pub(crate) fn each(&self, mut f: impl FnMut(Entry<'_>)) -> Result<(), Reason> {
        let list = openat(
            &self.fd,
            c".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut space = [MaybeUninit::uninit(); 16 << 10];
        let mut entries = RawDir::new(list, &mut space);
        let mut count = 0;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            count += 1;
            if count > NAMES_LIMIT {
                return Err(Reason::TooLarge(NAMES_LIMIT));
            }
            f(Entry {
                name: &name.to_string_lossy(),
                is_link: self.is_link(entry.file_type(), name),
            });
        }
        Ok(())
    }

    /// Whether an entry is a link; some file systems do not tell it with the name.
    fn is_link(&self, told: FileType, name: &CStr) -> bool {
        if told != FileType::Unknown {
            return told == FileType::Symlink;
        }
        let stat = rustix::fs::statat(&self.fd, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    }
}

/// A path without its leading slash; `.` for the root itself.
fn below(path: &Path) -> &Path {
    let path = path.strip_prefix("/").unwrap_or(path);
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}

/// Where a link in the directory `from` leads, by its text alone: a path from the root. `None` when it leaves the root.
pub(crate) fn resolve(from: &Path, target: &str) -> Option<PathBuf> {
    let mut path = from.to_path_buf();
    for component in Path::new(target).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => path.push(name),
            Component::ParentDir if path.pop() => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// The size of a regular file; an error for anything else.
fn regular(file: &OwnedFd) -> Result<usize, Reason> {
    let stat = fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Reason::NotAFile);
    }
    Ok(usize::try_from(stat.st_size).unwrap_or(usize::MAX))
}

/// Reads until the end of the file or of `space`; returns how much.
fn fill(file: impl AsFd, space: &mut [u8]) -> Result<usize, Reason> {
    let mut len = 0;
    while let Some(rest) = space.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match retry_on_intr(|| rustix::io::read(&file, &mut *rest))? {
            0 => break,
            read => len += read,
        }
    }
    Ok(len)
}

fn text(bytes: &[u8]) -> Result<&str, Reason> {
    let text = std::str::from_utf8(bytes).map(str::trim);
    text.map_err(|_not_utf8| Reason::malformed(&String::from_utf8_lossy(bytes)))
}
