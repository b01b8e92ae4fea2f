//! What the codes of errors mean: cause, and what to do, in more words than an error has room for.

/// An entry of the knowledge base.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The code that an error carries.
    pub(crate) code: &'static str,
    pub(crate) title: &'static str,
    /// Why it happens.
    pub(crate) cause: &'static str,
    /// How to look for oneself.
    pub(crate) check: &'static str,
    /// What to do.
    pub(crate) fix: &'static str,
}

/// The entry of that code; letter case and a leading `E-` do not matter.
pub(crate) fn find(code: &str) -> Option<&'static Entry> {
    let upper = code.to_ascii_uppercase();
    let code = upper.strip_prefix("E-").unwrap_or(&upper);
    ENTRIES.iter().find(|entry| entry.code == code)
}

/// Every code that an error can carry, in order.
pub(crate) static ENTRIES: [Entry; 17] = [
    Entry {
        code: "B01",
        title: "the driver did not take the function",
        cause: "The kernel offered the function to the driver and the driver refused it, or another driver was quicker. A \
                probe that fails leaves its reason only in the kernel's log.",
        check: "dmesg, and /sys/bus/pci/devices/BDF/{driver,driver_override}.",
        fix: "Remove the reason given in the kernel's log. vfio-pci refuses functions without an IOMMU group.",
    },
    Entry {
        code: "B06",
        title: "a process holds the function through VFIO",
        cause: "A VMM or another user-space driver has the group node /dev/vfio/N, the character device \
                /dev/vfio/devices/vfioN or a descriptor of the function open. Unbinding would wait inside the kernel, \
                without end, until that process lets go; so sriovctl does not try.",
        check: "sriovctl status names the process. Without root only one's own processes can be seen.",
        fix: "Shut the guest down, detach the function in its VMM, or choose one that is free: sriovctl list --free.",
    },
    Entry {
        code: "B17",
        title: "the machine itself uses the function",
        cause: "A filesystem on it is mounted, it is swap space or a member of a RAID or device-mapper device, its network \
                interface carries a route or belongs to a bridge or bond, or it drives the console's display. Taking it \
                away could take away the root filesystem or the connection over which you are logged in.",
        check: "findmnt, swapon, lsblk, ip route, ip link.",
        fix: "End that use first, or choose another function. Where losing it is intended: --force with the kind of use.",
    },
    Entry {
        code: "C01",
        title: "a selector matches no function",
        cause: "No function has that address, name, id, group or class, or the PF has no VF of that index.",
        check: "sriovctl list shows addresses, interfaces and groups; sriovctl tree shows which VFs a PF has.",
        fix: "Correct the selector, or create the VFs first: sriovctl vf create.",
    },
    Entry {
        code: "P01",
        title: "there is no IOMMU in front of the function",
        cause: "VFIO gives a function to user space only behind an IOMMU. It is switched off in the firmware, or the kernel \
                does not use it.",
        check: "/sys/class/iommu and /sys/kernel/iommu_groups are empty. The firmware offers an IOMMU when \
                /sys/firmware/acpi/tables has DMAR (Intel), IVRS (AMD) or IORT (Arm).",
        fix: "Enable VT-d or AMD-Vi in the firmware. If a table is there, boot with intel_iommu=on; AMD needs no option.",
    },
    Entry {
        code: "P06",
        title: "the IOMMU group is not viable",
        cause: "VFIO hands a group out as a whole, and another endpoint in it is still on a driver of the host. Bridges on \
                pcieport are not in the way.",
        check: "sriovctl groups names the functions that are.",
        fix: "Unbind those functions or bind them to vfio-pci too. Where that cannot be, use another slot, or a function \
              whose path has ACS: sriovctl show tells which hop lacks it.",
    },
    Entry {
        code: "S01",
        title: "the PF has another number of VFs already",
        cause: "The kernel goes only from no VFs to N and from N to none. Going through 0 destroys every VF, so sriovctl does \
                not do it on its own.",
        check: "sriovctl tree; /sys/bus/pci/devices/PF/sriov_numvfs.",
        fix: "When nobody needs the present VFs: sriovctl vf delete PF, then create them anew.",
    },
    Entry {
        code: "S02",
        title: "VFs of the PF are held",
        cause: "The number of VFs can only change while nobody has one of them. A process holds one through VFIO, and the \
                kernel would wait without end for it to let go; or the PF's driver counts VFs as assigned to a guest.",
        check: "sriovctl status names the processes and the functions they hold.",
        fix: "Shut the guests down that have VFs of this PF, or detach the VFs from them.",
    },
    Entry {
        code: "S03",
        title: "there is no room for so many VFs",
        cause: "The firmware left no memory space for the BARs of the VFs, or no bus numbers: every VF needs its part of \
                each VF BAR, and VFs can lie on further buses.",
        check: "dmesg; the VF BARs of sriovctl show PF.",
        fix: "Ask for fewer VFs. Enable SR-IOV and Above 4G Decoding in the firmware. Boot with pci=realloc (memory) or \
              pci=assign-busses (bus numbers).",
    },
    Entry {
        code: "S07",
        title: "the PF's driver cannot enable VFs",
        cause: "The kernel enables VFs only through the driver of the PF. It has none, or one without that ability.",
        check: "sriovctl show PF.",
        fix: "Bind the PF to its native driver. When the PF is meant to be on vfio-pci, load that with enable_sriov=1.",
    },
    Entry {
        code: "S08",
        title: "more VFs than the PF has",
        cause: "TotalVFs of the SR-IOV capability is the limit; the PF's driver can lower it.",
        check: "the total_vfs column of sriovctl list.",
        fix: "Ask for fewer. On some cards the firmware sets the limit: see the vendor's configuration tool.",
    },
    Entry {
        code: "S09",
        title: "the function offers no VFs",
        cause: "It has no SR-IOV capability, or SR-IOV is off in the firmware of machine or card, or the driver was loaded \
                with a limit of 0.",
        check: "sriovctl show BDF lists the capabilities; sriovctl list --filter role=pf lists what offers VFs.",
        fix: "Enable SR-IOV in the firmware of machine and card, and reset the card.",
    },
    Entry {
        code: "S11",
        title: "the write succeeded and no VF was created",
        cause: "Some drivers accept the number while the port is down or the firmware resets, and do nothing.",
        check: "dmesg; ip link show of the PF's interface.",
        fix: "Bring the port up, wait for the firmware, and try again.",
    },
    Entry {
        code: "S12",
        title: "the driver enabled another number of VFs",
        cause: "The driver gave fewer VFs than were asked for, and reported success.",
        check: "dmesg; sriovctl tree.",
        fix: "Ask for the number that the driver gives.",
    },
    Entry {
        code: "S13",
        title: "the kernel did not answer in time",
        cause: "The access waits for the device's lock. Most often vfio waits for the process that holds a function to let \
                go of it. The waiting access cannot be taken back: it happens when the wait ends.",
        check: "sriovctl status; dmesg for \"Relaying device request to user\"; /proc/PID/stack of a process in state D.",
        fix: "End the process that holds the function. Then look at what was reached with sriovctl log.",
    },
    Entry {
        code: "S19",
        title: "permission denied",
        cause: "Only root may change devices. A redirection in a shell (sudo echo 4 > sriov_numvfs) runs without the \
                privilege of sudo, and a kernel in lockdown or a container without a writable /sys refuses even root.",
        check: "id; mount | grep sysfs; /sys/kernel/security/lockdown.",
        fix: "Run sriovctl itself as root, outside of the container.",
    },
    Entry {
        code: "U01",
        title: "an earlier operation was interrupted",
        cause: "A sriovctl ended in the middle of a change: it was killed, or the undo of a failure did not succeed. What \
                it had done is in the journal.",
        check: "sriovctl log.",
        fix: "sriovctl undo restores what the operation had changed. It may be repeated as often as needed.",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_order_and_found_in_any_case() {
        assert!(ENTRIES.is_sorted_by(|a, b| a.code < b.code));
        for code in ["S01", "s01", "E-S01", "e-s01"] {
            assert_eq!(find(code).map(|entry| entry.code), Some("S01"), "{code}");
        }
        assert!(find("S99").is_none());
    }
}
