//! Why ours is behind, where that is known: found by profiling, and reviewed as text.

use crate::record::Record;

/// Said of all else.
pub const UNKNOWN: &str = "cause not known";

/// Why ours is behind in some cases.
struct Cause {
    /// As in [`Record::suite`].
    suite: &'static str,
    /// Each is a part of the case's title.
    case: &'static [&'static str],
    /// How the names of the ways begin that are ahead; any when empty.
    theirs: &'static str,
    text: &'static str,
}

const FEW_FREE: &str = "where all ranges have one size, or few, there are few free ones, and who looks at them one by one has found one at once; with sizes \
    of all kinds that takes ten times as long as ours, and more";

const CAUSES: &[Cause] = &[
    Cause {
        suite: "map",
        case: &[],
        theirs: "",
        text: "what makes it safe has a fixed price: noting the mapping so that its memory is not freed under the device, its IOVA and the guard that \
            unmaps took some 2,700 instructions when profiled, for a map and its unmap of any size; beside the kernel's some 12,000 of iommufd, \
            or 7,000 of type1, for a page that is much, and with more pages it disappears. For small buffers a pool is there, which maps once \
            for all of them",
    },
    Cause {
        suite: "interrupt",
        case: &["epoll and read of a blocking event"],
        theirs: "raw",
        text: "an event whose reads block is taken with preadv2 and RWF_NOWAIT, so that nobody waits for a signal that somebody else took: in the \
            kernel some 200 instructions more than read, which `EventFd::nonblocking` does without",
    },
    Cause {
        suite: "guest",
        case: &["first line", "0 functions"],
        theirs: "QEMU microvm",
        text: "the guest's kernel unpacks itself (gzip), the same under both: when profiled, half of the 382 million instructions that it took \
            with ours",
    },
    Cause {
        suite: "guest",
        case: &["first line", "1 function"],
        theirs: "QEMU microvm",
        text: "most of it is the same under both: the 512 MiB that the function may reach are zeroed and pinned before the guest runs, an instruction a byte \
            on the clock of instructions; the reset of the function takes 100 ms; and the guest's kernel unpacks itself (gzip). When profiled, that \
            was five sixths of the 972 million instructions with ours",
    },
    Cause {
        suite: "nvme",
        case: &["random reads", "threads 2"],
        theirs: "",
        text: "two threads that poll take both processors of the emulated machine, which run the device's model, too; by interrupt they leave \
            it time",
    },
    Cause {
        suite: "nvme",
        case: &["whole machine", "depth 1,"],
        theirs: "fio",
        text: "some 560 instructions of ours are the driver's own; the rest is the interrupt's way through the kernel to the thread that waits, and \
            the wait for the device, which this clock counts for all",
    },
    Cause {
        suite: "iova",
        case: &["one size"],
        theirs: "best fit",
        text: FEW_FREE,
    },
    Cause {
        suite: "iova",
        case: &["rings"],
        theirs: "",
        text: FEW_FREE,
    },
    Cause {
        suite: "vfs",
        case: &["created and bound"],
        theirs: "bare writes",
        text: "sriovctl starts two processes, itself and the one that accesses files which may block; it looks who would lose something, keeps a journal and reads back each change: a fixed price, which disappears beside \
            many VFs",
    },
    Cause {
        suite: "vfs",
        case: &["a block read by each"],
        theirs: "driverctl",
        text: "most of it is the same with both: each function is reset when it is opened, which takes 100 ms by the PCI Express Base \
            Specification, and enabling its controller is work of the emulated device",
    },
    Cause {
        suite: "lookup",
        case: &[],
        theirs: "two-level table",
        text: "the table takes two loads and no search, for it is told the one size of all pages beforehand; ours finds ranges of any size, \
            and so has to search. Neither takes a lock",
    },
];

/// Why ours is behind in this case, as far as it is known.
#[must_use]
pub fn of(ours: &Record, theirs: &str) -> &'static str {
    of_case(&ours.suite, &ours.title(), theirs)
}

/// As [`of`], by the suite and the case's title.
#[must_use]
pub fn of_case(suite: &str, title: &str, theirs: &str) -> &'static str {
    let is_it = |cause: &&Cause| {
        cause.suite == suite && cause.case.iter().all(|part| title.contains(part)) && theirs.starts_with(cause.theirs)
    };
    CAUSES.iter().find(is_it).map_or(UNKNOWN, |cause| cause.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_of_its_cases_alone() {
        let known = [
            ("map", "map 2 MiB of 4 KiB pages, iommufd, bytes 2097152", "raw"),
            (
                "interrupt",
                "epoll and read of a blocking event, asleep, device edu, MSI",
                "raw",
            ),
            (
                "map",
                "unmap 4 KiB of 4 KiB pages, iommufd, bytes 4096",
                "iommufd-ioctls",
            ),
            ("guest", "first line, 0 functions", "QEMU microvm"),
            ("guest", "first line, 1 function", "QEMU microvm"),
            ("nvme", "random reads, bytes 512, depth 1, threads 2", "fio iopoll"),
            (
                "nvme",
                "a random read, whole machine, bytes 4096, depth 1, threads 1",
                "fio io_uring",
            ),
            ("iova", "one size, 10000 live", "best fit in a list"),
            ("lookup", "4 KiB each, 256 mappings", "two-level table"),
        ];
        let unknown = [
            ("interrupt", "epoll and read, asleep, device edu, MSI", "raw"),
            ("iova", "random sizes, 10000 live", "best fit in a list"),
            ("guest", "first line, 16 functions", "QEMU microvm"),
            ("guest", "first line, 1 function", "QEMU q35"),
            ("pool", "take and return a buffer of 2 KiB", "raw"),
            ("guest", "first line, 0 functions", "QEMU q35"),
            ("guest", "memory beside the guest's, 0 functions", "QEMU microvm"),
            ("nvme", "random reads, bytes 512, depth 1, threads 1", "fio iopoll"),
            (
                "nvme",
                "a random read, whole machine, bytes 4096, depth 128, threads 1",
                "fio io_uring",
            ),
            ("lookup", "4 KiB each, 256 mappings", "skip list under a lock"),
            ("list", "16 functions", "lspci -nnk"),
        ];
        for (suite, title, theirs) in known {
            assert_ne!(of_case(suite, title, theirs), UNKNOWN, "{suite}: {title}");
        }
        for (suite, title, theirs) in unknown {
            assert_eq!(of_case(suite, title, theirs), UNKNOWN, "{suite}: {title}");
        }
    }

    /// A cause of ways or operations that have other names by now would never be said.
    #[test]
    fn the_table_that_is_told_of_is_one_that_is_measured() {
        let operations = crate::ops::all();
        let told = |operation: &&crate::ops::Operation| {
            let cause = of_case(operation.suite, &operation.titled(), operation.way);
            operation.way == "two-level table" && cause != UNKNOWN
        };
        assert!(operations.iter().any(|operation| told(&operation)));
    }
}
