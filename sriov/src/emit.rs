//! What to tell a VMM to give it a function: text to paste, built from the address alone.
//!
//! Forms: QEMU `docs/system/devices/vfio.rst` and `hw/core/qdev-properties-system.c`, cloud-hypervisor `docs/vfio.md`,
//! libvirt `docs/formatdomain.rst` (hostdev).

use crate::{Error, ErrorKind};
use pci::Bdf;

/// Largest segment that QEMU's `host=` takes, and libvirt with it.
const MAX_SEGMENT: u32 = 0xffff;

/// A program that runs guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vmm {
    /// QEMU: options of its command line.
    Qemu,
    /// cloud-hypervisor: options of its command line.
    CloudHypervisor,
    /// libvirt: an element for the domain's `<devices>`.
    Libvirt,
}

/// The kernel interface that a VMM uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Container and group, `/dev/vfio/vfio` and `/dev/vfio/N`.
    Type1,
    /// iommufd and character device, `/dev/iommu` and `/dev/vfio/devices/vfioN`.
    Iommufd,
}

/// The text that gives `function` to a guest of `vmm`, without a newline at its end. libvirt chooses the backend itself.
///
/// # Errors
/// [`ErrorKind::SegmentTooLarge`] for libvirt, which has no other name for the function than its address.
pub fn emit(vmm: Vmm, function: Bdf, backend: Backend) -> Result<String, Error> {
    let iommufd = backend == Backend::Iommufd;
    let text = match vmm {
        Vmm::Qemu if iommufd => format!(
            "-object iommufd,id=iommufd0 -device vfio-pci,{},iommufd=iommufd0",
            qemu_name(function)
        ),
        Vmm::Qemu => format!("-device vfio-pci,{}", qemu_name(function)),
        Vmm::CloudHypervisor => {
            let platform = if iommufd { "--platform iommufd=on " } else { "" };
            format!("{platform}--device path={}/", sysfs_path(function))
        }
        Vmm::Libvirt => libvirt(function)?,
    };
    Ok(text)
}

fn qemu_name(function: Bdf) -> String {
    if function.segment.0 > MAX_SEGMENT {
        return format!("sysfsdev={}", sysfs_path(function));
    }
    format!("host={function}")
}

fn sysfs_path(function: Bdf) -> String {
    format!("/sys/bus/pci/devices/{function}")
}

fn libvirt(function: Bdf) -> Result<String, Error> {
    let segment = function.segment.0;
    if segment > MAX_SEGMENT {
        let kind = ErrorKind::SegmentTooLarge {
            segment,
            max: MAX_SEGMENT,
        };
        return Err(Error::new(function, "emit libvirt", kind));
    }
    let id = function.routing_id;
    Ok(format!(
        "<hostdev mode='subsystem' type='pci' managed='no'>\n  <source>\n    \
         <address domain='{segment:#06x}' bus='{:#04x}' slot='{:#04x}' function='{:#x}'/>\n  </source>\n</hostdev>",
        id.bus(),
        id.device(),
        id.function()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(vmm: Vmm, function: &str, backend: Backend) -> String {
        emit(vmm, function.parse().unwrap(), backend).unwrap()
    }

    #[test]
    fn qemu_names_the_function_and_the_iommufd() {
        assert_eq!(
            text(Vmm::Qemu, "01:10.0", Backend::Type1),
            "-device vfio-pci,host=0000:01:10.0"
        );
        assert_eq!(
            text(Vmm::Qemu, "01:10.0", Backend::Iommufd),
            "-object iommufd,id=iommufd0 -device vfio-pci,host=0000:01:10.0,iommufd=iommufd0"
        );
    }

    #[test]
    fn qemu_gets_a_path_where_its_address_is_too_short() {
        assert_eq!(
            text(Vmm::Qemu, "ffff:01:10.0", Backend::Type1),
            "-device vfio-pci,host=ffff:01:10.0"
        );
        assert_eq!(
            text(Vmm::Qemu, "10000:01:10.0", Backend::Type1),
            "-device vfio-pci,sysfsdev=/sys/bus/pci/devices/10000:01:10.0"
        );
    }

    #[test]
    fn cloud_hypervisor_gets_a_path() {
        assert_eq!(
            text(Vmm::CloudHypervisor, "10000:01:10.0", Backend::Type1),
            "--device path=/sys/bus/pci/devices/10000:01:10.0/"
        );
        assert_eq!(
            text(Vmm::CloudHypervisor, "01:10.0", Backend::Iommufd),
            "--platform iommufd=on --device path=/sys/bus/pci/devices/0000:01:10.0/"
        );
    }

    #[test]
    fn libvirt_gets_the_four_parts_of_the_address() {
        let wanted = "<hostdev mode='subsystem' type='pci' managed='no'>
  <source>
    <address domain='0x0000' bus='0x3b' slot='0x1f' function='0x7'/>
  </source>
</hostdev>";
        assert_eq!(text(Vmm::Libvirt, "3b:1f.7", Backend::Type1), wanted);
    }

    #[test]
    fn libvirt_cannot_name_a_function_in_a_large_segment() {
        let error = emit(Vmm::Libvirt, "10000:01:10.0".parse().unwrap(), Backend::Type1).unwrap_err();
        assert_eq!(
            error.kind,
            ErrorKind::SegmentTooLarge {
                segment: 0x10000,
                max: 0xffff
            }
        );
    }
}
