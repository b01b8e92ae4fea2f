//! Trees of sysfs for tests and benches: machines of any size, generated in a directory, and captured ones, unpacked.
//!
//! A tree has the files, links and directories that a kernel with SR-IOV and an IOMMU shows, and can be read by [`pci`] and
//! by `lspci -A linux-sysfs -O sysfs.path=DIR/sys/bus/pci`. Files are plain: what is written into them stays.
//!
//! ```no_run
//! let tree = system_tests::tree::Tree::of("/tmp/machine", &system_tests::tree::server(4096))?;
//! let topology = pci::Topology::read(&tree.sysfs()).expect("a PCI bus");
//! assert_eq!(topology.functions().len(), 4096);
//! # Ok::<(), std::io::Error>(())
//! ```

mod attributes;
mod capture;
mod config;
mod node;
mod server;

pub use capture::unpack;
pub use node::{ClassNode, Node, Port, Role};
pub use server::server;

use pci::{Bdf, Sysfs};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::create_dir_all;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

/// A generated tree.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    /// Where each function lies, from the root.
    places: BTreeMap<Bdf, PathBuf>,
    drivers: BTreeSet<String>,
    groups: BTreeSet<u32>,
}

/// Where the functions' IOMMU lies, from the root.
const IOMMU: &str = "sys/devices/virtual/iommu/dmar0";

impl Tree {
    /// A tree without functions; drivers `vfio-pci` and `pcieport` are there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self> {
        let mut tree = Self {
            root: root.into(),
            places: BTreeMap::new(),
            drivers: BTreeSet::new(),
            groups: BTreeSet::new(),
        };
        for dir in [
            "sys/bus/pci/devices",
            "sys/bus/pci/drivers",
            "sys/kernel/iommu_groups",
            "sys/class/iommu",
        ] {
            create_dir_all(tree.root.join(dir))?;
        }
        tree.write("sys/bus/pci/drivers_autoprobe", "1\n")?;
        tree.write("sys/bus/pci/drivers_probe", "")?;
        tree.driver("vfio-pci")?;
        tree.driver("pcieport")?;
        Ok(tree)
    }

    /// A tree of these functions.
    ///
    /// # Errors
    /// As [`create`](Self::create) and [`add`](Self::add).
    pub fn of(root: impl Into<PathBuf>, nodes: &[Node]) -> Result<Self> {
        let mut tree = Self::create(root)?;
        for node in nodes {
            tree.add(node)?;
        }
        Ok(tree)
    }

    /// The tree as readers want it.
    #[must_use]
    pub fn sysfs(&self) -> Sysfs {
        Sysfs::at(&self.root)
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a file of a function, from the root of the tree.
    ///
    /// # Panics
    /// When the function was not added.
    #[must_use]
    pub fn file(&self, bdf: Bdf, name: &str) -> PathBuf {
        match self.places.get(&bdf) {
            Some(place) => place.join(name),
            #[expect(clippy::panic, reason = "a mistake in the test that asks")]
            None => panic!("{bdf} is not in the tree"),
        }
    }

    /// Writes a file given from the root of the tree, with the directories above it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<()> {
        #[expect(clippy::disallowed_methods, reason = "the tree is a test's own")]
        self.put(path.as_ref(), |path| std::fs::write(path, content.as_ref()))
    }

    /// Makes a relative link at `path` to `target`, both from the root of the tree, as the kernel does.
    ///
    /// # Errors
    /// What the file system says.
    pub fn link(&self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let relative = relative(path.parent().unwrap_or(path), target.as_ref());
        self.put(path, |path| symlink(&relative, path))
    }

    /// Puts something at a path, with the directories above it where they are not there yet.
    fn put(&self, path: &Path, put: impl Fn(&Path) -> Result<()>) -> Result<()> {
        self::put(&self.root.join(path), put)
    }

    /// Adds a function: after its parent and, for a VF, after its PF.
    ///
    /// # Errors
    /// What the file system says; `NotFound` when the parent or the PF is not there.
    pub fn add(&mut self, node: &Node) -> Result<()> {
        let bdf = node.bdf;
        let above = match node.parent {
            Some(parent) => self.place(parent)?.to_path_buf(),
            None => PathBuf::from(format!(
                "sys/devices/pci{:04x}:{:02x}",
                bdf.segment.0,
                bdf.routing_id.bus()
            )),
        };
        let place = above.join(bdf.to_string());
        let at = |name: &str| place.join(name);
        self.attributes(node, &place)?;
        self.link(format!("sys/bus/pci/devices/{bdf}"), &place)?;
        self.link(at("subsystem"), "sys/bus/pci")?;
        if let Some(driver) = &node.driver {
            let driver_dir = self.driver(driver)?;
            self.link(at("driver"), &driver_dir)?;
            self.link(driver_dir.join(bdf.to_string()), &place)?;
        }
        if let Some(group) = node.group {
            let group_dir = self.group(group)?;
            self.link(at("iommu_group"), &group_dir)?;
            self.link(group_dir.join(format!("devices/{bdf}")), &place)?;
            self.link(at("iommu"), IOMMU)?;
        }
        if let Role::Virtual { pf, index } = node.sriov {
            let pf = self.place(pf)?.to_path_buf();
            self.link(at("physfn"), &pf)?;
            self.link(pf.join(format!("virtfn{index}")), &place)?;
            self.write(pf.join("sriov_numvfs"), format!("{}\n", u32::from(index) + 1))?;
        }
        for device in &node.class_devices {
            self.class_device(device, bdf, &place)?;
        }
        self.places.insert(bdf, place);
        Ok(())
    }

    fn place(&self, bdf: Bdf) -> Result<&Path> {
        let place = self.places.get(&bdf).map(PathBuf::as_path);
        place.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{bdf} is not in the tree")))
    }

    fn attributes(&self, node: &Node, place: &Path) -> Result<()> {
        create_dir_all(self.root.join(place).join("link"))?;
        for (name, content) in attributes::of(node) {
            self.write(place.join(name), content)?;
        }
        self.write(place.join("config"), config::bytes(node))
    }

    fn driver(&mut self, name: &str) -> Result<PathBuf> {
        let dir = PathBuf::from(format!("sys/bus/pci/drivers/{name}"));
        if self.drivers.insert(name.to_owned()) {
            for file in ["bind", "unbind", "new_id", "remove_id", "uevent"] {
                self.write(dir.join(file), "")?;
            }
            let module = PathBuf::from(format!("sys/module/{}", name.replace('-', "_")));
            create_dir_all(self.root.join(&module))?;
            self.link(dir.join("module"), module)?;
        }
        Ok(dir)
    }

    fn group(&mut self, number: u32) -> Result<PathBuf> {
        let dir = PathBuf::from(format!("sys/kernel/iommu_groups/{number}"));
        if self.groups.is_empty() {
            self.iommu()?;
        }
        if self.groups.insert(number) {
            create_dir_all(self.root.join(&dir).join("devices"))?;
            self.write(dir.join("type"), "DMA-FQ\n")?;
            let msi = "0x00000000fee00000 0x00000000feefffff msi\n";
            self.write(dir.join("reserved_regions"), msi)?;
        }
        Ok(dir)
    }

    /// An Intel IOMMU with device TLB, PASID and page requests in scalable mode.
    fn iommu(&self) -> Result<()> {
        // Coherency, queued invalidation, device TLB, interrupt remapping, x2APIC, pass through, snoop control.
        const BASIC: u64 = 0xdf;
        // Nesting, page requests, 20-bit PASIDs, scalable mode with both stages.
        const SCALABLE: u64 = 1 << 26 | 1 << 29 | 19 << 35 | 1 << 40 | 1 << 43 | 1 << 46 | 1 << 47;
        let unit = Path::new(IOMMU);
        let ecap = format!("{:x}\n", BASIC | SCALABLE);
        let values = [
            ("address", "fed90000\n"),
            ("cap", "d2008c222f0686\n"),
            ("domains_supported", "65536\n"),
            ("domains_used", "2\n"),
            ("ecap", &ecap),
            ("version", "1:0\n"),
        ];
        for (name, value) in values {
            self.write(unit.join("intel-iommu").join(name), value)?;
        }
        self.link(unit.join("subsystem"), "sys/class/iommu")?;
        self.link("sys/class/iommu/dmar0", unit)
    }

    fn class_device(&self, device: &ClassNode, bdf: Bdf, place: &Path) -> Result<()> {
        let dir = place.join(&device.path);
        let class = format!("sys/class/{}", device.class);
        create_dir_all(self.root.join(&class))?;
        self.write(dir.join("uevent"), "")?;
        self.link(dir.join("subsystem"), &class)?;
        let parent = place
            .join(&device.path)
            .parent()
            .and_then(Path::parent)
            .map(Path::to_path_buf);
        self.link(dir.join("device"), parent.unwrap_or_else(|| place.to_path_buf()))?;
        if device.class == "net" {
            let address = format!(
                "02:00:00:00:{:02x}:{:02x}\n",
                bdf.routing_id.bus(),
                bdf.routing_id.devfn()
            );
            for (name, value) in [("address", address.as_str()), ("operstate", "up\n"), ("mtu", "1500\n")] {
                self.write(dir.join(name), value)?;
            }
        }
        let name = dir.file_name().unwrap_or_default().to_owned();
        self.link(Path::new(&class).join(name), dir)
    }
}

fn put(path: &Path, put: impl Fn(&Path) -> Result<()>) -> Result<()> {
    match (put(path), path.parent()) {
        (Err(error), Some(above)) if error.kind() == ErrorKind::NotFound => {
            create_dir_all(above)?;
            put(path)
        }
        (result, _) => result,
    }
}

/// The way from one directory to a place, both from the root.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let shared = from
        .components()
        .zip(to.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(to.components().skip(shared)).collect()
}
