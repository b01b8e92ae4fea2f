//! A guest that reaches for anything in its whole machine, with functions on a fake kernel, while these fail, are wanted back, come and go.
//!
//! Whatever happens: nothing panics; no access of the guest reaches a function beyond its regions, or its own MSI-X table; memory slots lie in the windows,
//! over nothing else; no message goes to where no interrupt controller is; no call is made to the kernel that only a mistake makes; and after the end
//! nothing is left in the guest or open in the host.
//!
//! What guests try, here or in [`hostile`](../hostile/mod.rs), and what becomes of it:
//!
//! | the guest | is answered by |
//! |---|---|
//! | reads or writes 1 to 8 bytes anywhere: ports, memory, configuration space, across the ends of what is there | all ones, or the write is lost, unless all bytes are one device's |
//! | reaches for buses, devices, functions that there are not, or that have no power | all ones |
//! | gives two ports the same buses, or turns bus numbers and windows around | the first port answers; nothing behind the others |
//! | writes half an address to 0xCF8, or other lengths than four bytes | nothing happens |
//! | puts a BAR over another one's, RAM, ECAM, an interrupt controller, or where addresses wrap around | the guest does not find it there |
//! | lets BARs decode, sleep, and reset hundreds of times | memory slots come and go with them |
//! | changes the MSI-X table and its masks in any order, enabled or not, MSI and MSI-X together | one way of interrupting at a time; what is pending comes once |
//! | lets the device write messages to memory, or to addresses of nobody | they are not sent |
//! | lets a device read and write what is no memory of the guest | the IOMMU refuses |
//! | resets functions, buses and links while functions are used or leave | the function is reset, and is what it was after power-on |
//! | switches slots on and off, with and without being asked, presses back, answers late or never | what is asked for and let go of is taken once; else it keeps it |
//! | resets and switches off by any register, several times | the first request counts, and is done once |
//! | floods the serial port, in loop-back mode too, and reads nothing | what has no room is lost |
//!
//! and all of it while the kernel reports errors (ERR), wants functions back (REQ), pulls them, lets them fall silent, and fails single calls.

mod host;
mod scene;

use crate::script::Script;
use scene::Scene;

/// Deeds of one run at most.
const DEEDS: usize = 200;

/// Runs a script.
pub(crate) fn run(data: &[u8]) {
    let mut script = Script(data);
    let mut scene = Scene::new(&mut script);
    for _ in 0..DEEDS {
        if script.is_empty() {
            break;
        }
        scene.step(&mut script);
        scene.check();
    }
    scene.end();
}
