//! What the lab's machine is made of, as QEMU arguments.

use anyhow::{Context, Result, ensure};
use rustix::fs::{FileType, Mode};
use std::fs::File;
use std::path::Path;

/// Size of an NVMe namespace; the file is sparse.
const DISK_BYTES: u64 = 256 << 20;

/// The machine's IOMMU.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Iommu {
    /// Intel VT-d with second-stage tables, interrupt remapping and device TLBs
    Intel,
    /// Intel VT-d in scalable mode with first-stage tables, PASID and page requests
    IntelScalable,
    /// AMD-Vi; Linux does not remap its interrupts in QEMU, so VFIO needs allow_unsafe_interrupts there
    Amd,
    /// virtio-iommu
    Virtio,
    /// No IOMMU
    None,
}

/// A device that can be put into the machine.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// 82576 NIC with 7 VFs
    Igb,
    /// NVMe controller with 8 VFs and one namespace
    Nvme,
    /// NVMe controller with 127 VFs
    Nvme127,
    /// NVMe controller with a controller memory buffer of 8 MiB, a namespace of 4096-byte blocks and no VFs: QEMU has no controller with
    /// VFs and such a buffer
    NvmeCmb,
    /// virtio NIC with 2 VFs and ATS
    VirtioNet,
    /// QEMU's tutorial device: conventional PCI, MSI, DMA on command
    Edu,
    /// A second 82576 behind a switch with ACS
    SwitchIgb,
    /// virtio disk with 2 queues and ATS
    VirtioBlk,
    /// virtio source of entropy, and virtio console that says what it hears; each behind a port of its own, with ATS
    VirtioRngConsole,
}

/// The lab's machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Machine {
    /// Its IOMMU.
    pub iommu: Iommu,
    /// Its devices besides those that the lab itself needs.
    pub devices: Vec<Device>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Number of CPUs.
    pub cpus: u32,
    /// Huge pages of 1 GiB that the kernel sets aside as it boots; they are part of the memory.
    #[serde(default)]
    pub gigantic_pages: u32,
    /// Whether programs in it can talk to QEMU's monitor (QMP), through [`MONITOR`]: to pull a device out, for example. What runs there
    /// can do on the host whatever QEMU can.
    #[serde(default)]
    pub monitor: bool,
    /// Whether its clock counts instructions: one is 1 ns, whatever else this machine does. For costs per operation that can be compared;
    /// one CPU only, and slow.
    #[serde(default)]
    pub icount: bool,
}

/// Name of the port of QEMU's monitor in the machine (`/sys/class/virtio-ports/*/name`).
pub const MONITOR: &str = "monitor";

impl Default for Machine {
    /// Intel VT-d, one device of each common kind, memory for a guest inside.
    fn default() -> Self {
        Self {
            iommu: Iommu::Intel,
            devices: vec![Device::Igb, Device::Nvme, Device::VirtioNet, Device::Edu],
            memory_mib: 3072,
            cpus: 2,
            gigantic_pages: 0,
            monitor: false,
            icount: false,
        }
    }
}

impl Machine {
    /// QEMU arguments for the machine itself. Disks are made in `scratch`.
    pub(crate) fn arguments(&self, scratch: &Path) -> Result<Vec<String>> {
        let mut arguments =
            words("-nodefaults -no-reboot -display none -monitor none -machine q35,kernel-irqchip=off -cpu max");
        ensure!(
            !self.icount || self.cpus == 1,
            "a clock that counts instructions counts those of one CPU, and the machine is to have {}",
            self.cpus
        );
        let accel = if self.icount {
            "-accel tcg,thread=single -icount shift=0"
        } else {
            "-accel tcg,thread=multi"
        };
        arguments.extend(words(accel));
        arguments.extend(words("-run-with exit-with-parent=on"));
        arguments.extend([
            "-smp".to_owned(),
            self.cpus.to_string(),
            "-m".to_owned(),
            format!("{}M", self.memory_mib),
        ]);
        arguments.extend(words(match self.iommu {
            Iommu::Intel => "-device intel-iommu,intremap=on,device-iotlb=on,aw-bits=48",
            Iommu::IntelScalable => {
                "-device intel-iommu,intremap=on,eim=on,device-iotlb=on,caching-mode=on,scalable-mode=on,fsts=on,pasid-bits=20,svm=on"
            }
            Iommu::Amd => "-device amd-iommu",
            Iommu::Virtio => "-device virtio-iommu-pci",
            Iommu::None => "",
        }));
        for (position, device) in self.devices.iter().enumerate() {
            arguments.extend(device.arguments(position, scratch)?);
        }
        if self.monitor {
            arguments.extend(monitor(&scratch.join("monitor"))?);
        }
        Ok(arguments)
    }

    /// What this machine adds to the kernel's command line.
    pub(crate) fn kernel_arguments(&self) -> String {
        let iommu = match self.iommu {
            Iommu::Amd => "vfio_iommu_type1.allow_unsafe_interrupts=1 iommufd.allow_unsafe_interrupts=1",
            Iommu::Intel | Iommu::IntelScalable => "intel_iommu=on",
            Iommu::Virtio | Iommu::None => "",
        };
        // The firmware gives ports away only to a kernel that also saves their power, which this one does not.
        let ports = if self.monitor { " pcie_ports=native" } else { "" };
        match self.gigantic_pages {
            0 => format!("{iommu}{ports}"),
            count => format!("{iommu}{ports} hugepagesz=1G hugepages={count}"),
        }
    }
}

impl Device {
    /// Each device gets a root port of its own; `n` makes the ids unique.
    fn arguments(self, n: usize, scratch: &Path) -> Result<Vec<String>> {
        let port = format!("-device pcie-root-port,id=rp{n},slot={n},chassis={}", n + 1);
        let text = match self {
            Self::Igb => {
                format!("{port} -netdev user,id=net{n},restrict=on,ipv6=off -device igb,bus=rp{n},netdev=net{n}")
            }
            Self::Nvme => nvme(
                n,
                scratch,
                "sriov_max_vfs=8,sriov_vq_flexible=16,sriov_vi_flexible=8,max_ioqpairs=26,msix_qsize=17",
                "",
            )?,
            Self::Nvme127 => nvme(
                n,
                scratch,
                "sriov_max_vfs=127,sriov_vq_flexible=254,sriov_vi_flexible=127,max_ioqpairs=256,msix_qsize=129",
                "",
            )?,
            Self::NvmeCmb => nvme(
                n,
                scratch,
                "cmb_size_mb=8,max_ioqpairs=16,msix_qsize=17",
                ",logical_block_size=4096,physical_block_size=4096",
            )?,
            Self::VirtioNet => {
                // QEMU wants the VFs before their PF, and takes no `user` network for them but behind a hub, where it takes what nobody else does: a
                // hub on which nobody receives holds frames back.
                let function = |function: u8, role: &str| {
                    format!(
                        "-netdev hubport,hubid={n},id=net{n}{function} \
                         -device virtio-net-pci,bus=rp{n},addr=0x0.0x{function},netdev=net{n}{function},{role},{VIRTIO}"
                    )
                };
                let vf = format!("sriov-pf=vpf{n}");
                format!(
                    "{port} -netdev user,id=user{n},restrict=on,ipv6=off -netdev hubport,hubid={n},id=hub{n},netdev=user{n} {} {} {}",
                    function(2, &vf),
                    function(1, &vf),
                    function(0, &format!("id=vpf{n}"))
                )
            }
            Self::Edu => "-device edu,dma_mask=0xffffffffffffffff".to_owned(),
            Self::SwitchIgb => format!(
                "{port} -device x3130-upstream,id=up{n},bus=rp{n} -device xio3130-downstream,id=down{n},bus=up{n},slot={n},chassis=1{n} \
                 -netdev user,id=net{n},restrict=on,ipv6=off -device igb,bus=down{n},netdev=net{n}"
            ),
            Self::VirtioBlk => {
                let disk = scratch.join(format!("virtio{n}.img"));
                File::create(&disk)?.set_len(DISK_BYTES)?;
                format!(
                    "{port} -drive file={},if=none,id=vd{n},format=raw,cache=unsafe,discard=unmap \
                     -device virtio-blk-pci,bus=rp{n},drive=vd{n},num-queues=2,serial=lab{n},{VIRTIO}",
                    disk.display()
                )
            }
            Self::VirtioRngConsole => {
                // QEMU reads and writes the same pipe, so that what it writes comes back.
                let pipe = scratch.join(format!("console{n}"));
                rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
                format!(
                    "{port} -device virtio-rng-pci,bus=rp{n},{VIRTIO} \
                     -device pcie-root-port,id=rpc{n},slot=1{n},chassis=1{n} -chardev pipe,id=echo{n},path={} \
                     -device virtio-serial-pci,id=vc{n},bus=rpc{n},{VIRTIO} -device virtconsole,bus=vc{n}.0,chardev=echo{n}",
                    pipe.display()
                )
            }
        };
        Ok(words(&text))
    }
}

/// Longest path of a socket in bytes: `sun_path` of `unix(7)` without the 0 at its end.
const SOCKET_PATH: usize = 107;

/// A port of the machine to QEMU's monitor, of which QEMU is its own client by way of a socket.
fn monitor(socket: &Path) -> Result<Vec<String>> {
    let path = socket.to_str().context("the path of the lab's cache is not UTF-8")?;
    ensure!(
        path.len() <= SOCKET_PATH,
        "the path of a socket has at most {SOCKET_PATH} bytes, and {path} has {}: put the lab's cache into a directory with a shorter path",
        path.len()
    );
    // A comma ends a value, unless it is doubled.
    let path = path.replace(',', ",,");
    let server = format!("socket,id=monitor,path={path},server=on,wait=off");
    let client = format!("socket,id=client,path={path}");
    let arguments = [
        ["-chardev", &server],
        ["-mon", "chardev=monitor,mode=control"],
        ["-chardev", &client],
        ["-device", "virtio-serial-pci,id=monitors"],
        ["-device", "virtserialport,bus=monitors.0,chardev=client,name=monitor"],
        // What is pulled out through it is told by its port, whose driver the kernel has, and not by ACPI.
        ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"],
    ];
    Ok(arguments.into_iter().flatten().map(str::to_owned).collect())
}

/// Behind the IOMMU, as hardware is.
const VIRTIO: &str = "disable-legacy=on,iommu_platform=on,ats=on";

/// A controller and its namespace, with options of each.
fn nvme(n: usize, scratch: &Path, options: &str, blocks: &str) -> Result<String> {
    let disk = scratch.join(format!("nvme{n}.img"));
    File::create(&disk)?.set_len(DISK_BYTES)?;
    // A faster port would have to say after a reset of its bus that its link is up, which QEMU's does only where slots are told of by it.
    Ok(format!(
        "-device pcie-root-port,id=rp{n},slot={n},chassis={},x-speed=5 -device nvme-subsys,id=sub{n} \
         -drive file={},if=none,id=disk{n},format=raw,cache=unsafe -device nvme,bus=rp{n},serial=lab{n},id=nvme{n},subsys=sub{n},{options} \
         -device nvme-ns,drive=disk{n},bus=nvme{n},nsid=1,shared=on{blocks}",
        n + 1,
        disk.display(),
    ))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_the_monitor_reaches_qemu_whole() {
        let arguments = monitor(Path::new("/tmp/a b,c/monitor")).unwrap();
        assert_eq!(
            arguments[..2],
            [
                "-chardev",
                "socket,id=monitor,path=/tmp/a b,,c/monitor,server=on,wait=off"
            ]
        );
        assert_eq!(
            arguments[4..6],
            ["-chardev", "socket,id=client,path=/tmp/a b,,c/monitor"]
        );
    }

    #[test]
    fn a_clock_of_instructions_is_for_one_cpu() {
        let arguments = |cpus| {
            let machine = Machine {
                devices: Vec::new(),
                cpus,
                icount: true,
                ..Machine::default()
            };
            machine.arguments(Path::new("/"))
        };
        assert!(arguments(1).unwrap().join(" ").contains("-icount shift=0"));
        let refused = arguments(2).unwrap_err().to_string();
        assert!(refused.contains("one CPU"), "{refused}");
    }

    #[test]
    fn a_path_that_no_socket_has_is_refused() {
        let path = |len: usize| format!("/{}", "x".repeat(len - 1));
        assert!(monitor(Path::new(&path(107))).is_ok());
        let refused = monitor(Path::new(&path(108))).unwrap_err().to_string();
        assert!(refused.contains("at most 107 bytes"), "{refused}");
    }
}
