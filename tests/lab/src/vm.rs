//! Boots the lab's machine and runs the host's commands inside it.

use crate::initramfs::{self, Role};
use crate::kernel_log::{Trouble, trouble};
use crate::{Kernel, Machine, Qemu, progress, scratch};
use anyhow::{Context, Result, bail};
use lab_init::{Exec, Exit, Frame, KernelRecord, Ready};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt;
use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long the machine may take to come up. Seen: 6 s with the full kernel, 35 s with the stock one.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// Why a command did not end by itself.
#[derive(Debug)]
pub struct TimeLimit {
    command: String,
    limit: Duration,
    console: String,
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (command, seconds) = (&self.command, self.limit.as_secs());
        write!(
            f,
            "{command} did not end within its time limit of {seconds} s and was killed"
        )?;
        write!(f, "; the console ends with\n{}", self.console)
    }
}

impl std::error::Error for TimeLimit {}

/// A running machine. Dropping it ends it.
#[derive(Debug)]
pub struct Vm {
    qemu: Child,
    control: UnixStream,
    frames: Receiver<Frame>,
    ready: Ready,
    console: PathBuf,
    booted_in: Duration,
    boot_log: Vec<KernelRecord>,
    /// Holds the disks, the initial file systems and the console's text.
    scratch: tempfile::TempDir,
}

/// A piece of a running command's output.
#[derive(Debug)]
pub enum Output<'a> {
    /// Standard output.
    Stdout(&'a [u8]),
    /// Standard error.
    Stderr(&'a [u8]),
}

/// A command that ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub exit: Exit,
    /// What the kernel logged meanwhile.
    pub kernel_log: Vec<KernelRecord>,
}

impl Finished {
    /// The exit status as a shell would give it: a signal is 128 plus its number, a command that did not start 127.
    #[must_use]
    pub fn status(&self) -> i32 {
        match &self.exit {
            Exit::Code(code) => *code,
            Exit::Signal(signal) => 128 + signal,
            Exit::NotStarted(_) => 127,
        }
    }

    /// Records that mean trouble.
    pub fn troubles(&self) -> impl Iterator<Item = (Trouble, &KernelRecord)> {
        self.kernel_log
            .iter()
            .filter_map(|record| Some((trouble(record)?, record)))
    }
}

impl Vm {
    /// Boots `machine` with `kernel`. An `interactive` machine has this process's terminal as `hvc0`.
    ///
    /// # Errors
    /// When the machine does not come up in time; the error ends with the console's last lines.
    pub fn boot(qemu: &Qemu, kernel: &Kernel, machine: &Machine, interactive: bool) -> Result<Self> {
        let init = initramfs::build_init()?;
        let scratch = scratch::make()?;
        initramfs::write(&scratch.path().join("machine.cpio"), kernel, Role::Machine, &init)?;
        initramfs::write(&scratch.path().join("guest.cpio"), kernel, Role::Guest, &init)?;
        let console = scratch.path().join("console.log");
        let socket = scratch.path().join("control");
        let listener = UnixListener::bind(&socket)?;

        let mut command = Command::new(&qemu.program);
        command.args(machine.arguments(scratch.path())?);
        command
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(scratch.path().join("machine.cpio"));
        // `iommu=nopt`: the host's own DMA goes through the IOMMU too, as on a machine set up for safety.
        // `no_timer_check`: on a busy host the emulated timer may miss the kernel's short test of it.
        // `tsc=reliable`: nor does the kernel give up the TSC there, whose readings by two CPUs may lie far apart; without it KVM's guests
        // crawl.
        let quiet =
            "console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check tsc=reliable iommu=nopt hugepagesz=2M hugepages=64";
        command
            .arg("-append")
            .arg(format!("{quiet} {}", machine.kernel_arguments()));
        command
            .arg("-chardev")
            .arg(format!("file,id=console,path={}", console.display()))
            .args(["-serial", "chardev:console"]);
        command
            .arg("-chardev")
            .arg(format!("socket,id=control,path={}", socket.display()));
        command.args(["-device", "virtio-serial-pci,id=serial"]);
        command.arg("-device").arg(format!(
            "virtserialport,bus=serial.0,chardev=control,name={}",
            lab_init::CONTROL_PORT
        ));
        if interactive {
            command.args([
                "-chardev",
                "stdio,id=terminal,signal=off",
                "-device",
                "virtconsole,bus=serial.0,chardev=terminal",
            ]);
        } else {
            command.stdin(Stdio::null());
        }
        command.args([
            "-fsdev",
            "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
        ]);
        command.args([
            "-device",
            &format!("virtio-9p-pci,fsdev=host,mount_tag={}", lab_init::HOST_TAG),
        ]);
        let log = scratch.path().join("qemu.log");
        command
            .stdout(if interactive { Stdio::inherit() } else { Stdio::null() })
            .stderr(File::create(&log)?);

        let start = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("start {}", qemu.program.display()))?;
        let control = match accept(&listener, &mut child, BOOT_LIMIT) {
            Ok(control) => control,
            Err(error) => {
                end(&mut child);
                return Err(error)
                    .with_context(|| format!("QEMU {} said:\n{}", qemu.version, progress::tail(&log, 15)));
            }
        };
        let frames = read_frames(control.try_clone()?);
        let ready = Ready {
            kernel: String::new(),
            uptime_ms: 0,
            problems: Vec::new(),
        };
        let mut vm = Self {
            qemu: child,
            control,
            frames,
            ready,
            console,
            booted_in: Duration::ZERO,
            boot_log: Vec::new(),
            scratch,
        };
        loop {
            match vm.next(start + BOOT_LIMIT, "coming up")? {
                Frame::Ready(ready) => {
                    vm.ready = ready;
                    vm.booted_in = start.elapsed();
                    return Ok(vm);
                }
                Frame::Kernel(record) => vm.boot_log.push(record),
                other => bail!("the machine sent {other:?} before it was ready"),
            }
        }
    }

    /// Runs a command to its end, or kills it when `limit` has passed. Output is handed over as it comes. `LAB_GUEST_INITRD` names the
    /// [`guest_initrd`](Self::guest_initrd) for it.
    ///
    /// # Errors
    /// [`TimeLimit`] when the command does not end in time, with the console's last lines; when the machine is lost.
    pub fn run(&mut self, exec: &Exec, limit: Duration, mut output: impl FnMut(&Output<'_>)) -> Result<Finished> {
        let deadline = Instant::now() + limit;
        let mut command = exec.clone();
        let initrd = self.guest_initrd().display().to_string();
        command.env.push(("LAB_GUEST_INITRD".to_owned(), initrd));
        Frame::Exec(command)
            .write(&mut self.control)
            .context("the machine is gone")?;
        let mut kernel_log = Vec::new();
        loop {
            let frame = match self.next(deadline, "running a command") {
                Ok(frame) => frame,
                Err(error) => {
                    // Best effort: a machine that is gone takes no orders.
                    drop(Frame::Kill.write(&mut self.control));
                    let command = exec.argv.join(" ");
                    if Instant::now() < deadline {
                        return Err(error.context(command));
                    }
                    let console = self.console_tail();
                    return Err(anyhow::Error::new(TimeLimit {
                        command,
                        limit,
                        console,
                    }));
                }
            };
            match frame {
                Frame::Stdout(bytes) => output(&Output::Stdout(&bytes)),
                Frame::Stderr(bytes) => output(&Output::Stderr(&bytes)),
                Frame::Kernel(record) => kernel_log.push(record),
                Frame::Exit(exit) => return Ok(Finished { exit, kernel_log }),
                other => bail!("the machine sent {other:?} while a command ran"),
            }
        }
    }

    /// Powers the machine off in an orderly way.
    pub fn power_off(mut self) {
        if Frame::PowerOff.write(&mut self.control).is_ok() {
            let deadline = Instant::now() + Duration::from_secs(10);
            // The control channel closes when QEMU ends.
            while !deadline.saturating_duration_since(Instant::now()).is_zero()
                && self
                    .frames
                    .recv_timeout(deadline.saturating_duration_since(Instant::now()))
                    .is_ok()
            {}
        }
    }

    /// The kernel's release.
    #[must_use]
    pub fn kernel_release(&self) -> &str {
        &self.ready.kernel
    }

    /// What did not work while coming up.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.ready.problems
    }

    /// Time from the start of QEMU to the first command that could run.
    #[must_use]
    pub fn booted_in(&self) -> Duration {
        self.booted_in
    }

    /// What the kernel logged while coming up.
    #[must_use]
    pub fn boot_log(&self) -> &[KernelRecord] {
        &self.boot_log
    }

    /// The archive with the initial file system of a guest inside; the path is good inside the machine too.
    #[must_use]
    pub fn guest_initrd(&self) -> PathBuf {
        self.scratch.path().join("guest.cpio")
    }

    /// The last lines of the console.
    #[must_use]
    pub fn console_tail(&self) -> String {
        progress::tail(&self.console, 25)
    }

    fn next(&mut self, deadline: Instant, doing: &str) -> Result<Frame> {
        let left = deadline.saturating_duration_since(Instant::now());
        // Frames that queue up must not carry a chatty command past its limit.
        let next = if left.is_zero() {
            Err(RecvTimeoutError::Timeout)
        } else {
            self.frames.recv_timeout(left)
        };
        let what = match next {
            Ok(frame) => return Ok(frame),
            Err(RecvTimeoutError::Timeout) => "time limit reached",
            Err(RecvTimeoutError::Disconnected) => "the machine was lost",
        };
        bail!("{what} while {doing}; the console ends with\n{}", self.console_tail())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        end(&mut self.qemu);
    }
}

fn end(qemu: &mut Child) {
    // Both fail only when QEMU has ended and been reaped already.
    drop(qemu.kill());
    drop(qemu.wait());
}

/// Waits for QEMU to connect, for as long as it lives.
fn accept(listener: &UnixListener, qemu: &mut Child, limit: Duration) -> Result<UnixStream> {
    let deadline = Instant::now() + limit;
    let slice = Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    while Instant::now() < deadline {
        if poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&slice))? > 0 {
            return Ok(listener.accept()?.0);
        }
        if let Some(status) = qemu.try_wait()? {
            bail!("QEMU ended at once: {status}");
        }
    }
    bail!("QEMU did not connect in {} s", limit.as_secs())
}

fn read_frames(mut control: UnixStream) -> Receiver<Frame> {
    // Bounded: who does not read makes the command wait, as a pipe would.
    let (to, frames) = sync_channel(64);
    thread::spawn(move || {
        while let Ok(frame) = Frame::read(&mut control) {
            if to.send(frame).is_err() {
                return;
            }
        }
    });
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_does_not_end_is_killed_when_its_time_is_over() {
        let (control, mut machine) = UnixStream::pair().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let mut vm = Vm {
            qemu: Command::new("sleep").arg("600").spawn().unwrap(),
            frames: read_frames(control.try_clone().unwrap()),
            control,
            ready: Ready {
                kernel: String::new(),
                uptime_ms: 0,
                problems: Vec::new(),
            },
            console: scratch.path().join("console.log"),
            booted_in: Duration::ZERO,
            boot_log: Vec::new(),
            scratch,
        };
        let exec = Exec {
            argv: vec!["sleep".to_owned(), "99".to_owned()],
            env: Vec::new(),
            cwd: "/".to_owned(),
            interactive: false,
        };
        let error = vm.run(&exec, Duration::from_millis(10), |_| {}).unwrap_err();
        assert!(error.is::<TimeLimit>(), "{error:?}");
        assert!(error.to_string().starts_with("sleep 99 did not end within"), "{error}");
        assert!(matches!(Frame::read(&mut machine), Ok(Frame::Exec(_))));
        assert!(matches!(Frame::read(&mut machine), Ok(Frame::Kill)));
        // A machine that is lost is another matter.
        drop(machine);
        let error = vm.run(&exec, Duration::from_secs(60), |_| {}).unwrap_err();
        assert!(!error.is::<TimeLimit>(), "{error:?}");
    }
}
