//! Serves commands from the control port, one at a time.

use crate::kmsg::KernelLog;
use crate::{console, mounts};
use anyhow::{Context, Result, bail};
use lab_init::{CONTROL_PORT, Exec, Exit, Frame, Ready, link};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::system::uname;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// What the serving thread waits for.
enum Event {
    FromHost(Frame),
    HostGone,
    Ended(Exit),
}

/// Opens the port and serves until the host says so or is gone.
pub(crate) fn serve() -> Result<()> {
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(control_port()?)
        .context("open the control port")?;
    let mut log = KernelLog::open();
    let mut problems: Vec<String> = std::env::args().skip(2).collect();
    problems.extend(set_links_up().err().map(|error| format!("{error:#}")));
    let ready = Ready {
        kernel: uname().release().to_string_lossy().into_owned(),
        uptime_ms: uptime_ms()?,
        problems,
    };
    let mut out = &port;
    send_kernel_log(&mut log, &mut out)?;
    Frame::Ready(ready).write(&mut out)?;

    let (events, inbox) = channel();
    let (from_host, reader) = (events.clone(), port.try_clone()?);
    thread::spawn(move || read_frames(reader, &from_host));
    while let Ok(event) = inbox.recv() {
        match event {
            Event::FromHost(Frame::Exec(exec)) => {
                let exit = run(&exec, &port, &events, &inbox)?;
                send_kernel_log(&mut log, &mut out)?;
                Frame::Exit(exit).write(&mut out)?;
            }
            Event::FromHost(Frame::PowerOff) | Event::HostGone => break,
            // A kill that crossed with the exit of its command.
            Event::FromHost(_) | Event::Ended(_) => {}
        }
    }
    Ok(())
}

fn read_frames(mut port: File, to: &Sender<Event>) {
    while let Ok(frame) = Frame::read(&mut port) {
        if to.send(Event::FromHost(frame)).is_err() {
            return;
        }
    }
    drop(to.send(Event::HostGone));
}

/// Runs a command to its end and returns how it ended. What it left running in its process group is killed.
fn run(exec: &Exec, port: &File, events: &Sender<Event>, inbox: &Receiver<Event>) -> Result<Exit> {
    let mut child = match start(exec) {
        Ok(child) => child,
        Err(error) => return Ok(Exit::NotStarted(format!("{error:#}"))),
    };
    let group = Pid::from_raw(i32::try_from(child.id())?).context("a process id")?;
    let pumps = [
        child
            .stdout
            .take()
            .map(|pipe| pump(pipe, port.try_clone(), Frame::Stdout)),
        child
            .stderr
            .take()
            .map(|pipe| pump(pipe, port.try_clone(), Frame::Stderr)),
    ];
    let ended = events.clone();
    thread::spawn(move || drop(ended.send(Event::Ended(wait(&mut child)))));
    let exit = loop {
        match inbox.recv()? {
            Event::Ended(exit) => break exit,
            Event::FromHost(Frame::Kill) | Event::HostGone => kill(group),
            Event::FromHost(_) => {}
        }
    };
    // What is left in the group would hold the pipes open and disturb the next command.
    kill(group);
    for pump in pumps.into_iter().flatten() {
        drop(pump.join());
    }
    Ok(exit)
}

/// Kills what is left of a process group; that nothing is left is the usual case.
fn kill(group: Pid) {
    if let Err(error) = kill_process_group(group, Signal::KILL)
        && error != Errno::SRCH
    {
        console::say(&format!("lab-init: kill {group:?}: {error}"));
    }
}

fn start(exec: &Exec) -> Result<Child> {
    let Some((program, arguments)) = exec.argv.split_first() else {
        bail!("no command")
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(exec.env.iter().cloned())
        .current_dir(&exec.cwd)
        .stdin(Stdio::null());
    if exec.interactive {
        // A session of its own on the terminal; setsid(1) is the safe way to one.
        let terminal = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/hvc0")
            .context("open hvc0")?;
        command = Command::new("setsid");
        command
            .args(["--ctty", "--wait"])
            .args(&exec.argv)
            .env_clear()
            .envs(exec.env.iter().cloned())
            .current_dir(&exec.cwd);
        command
            .stdin(terminal.try_clone()?)
            .stdout(terminal.try_clone()?)
            .stderr(terminal);
    } else {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    command
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {program}"))
}

fn wait(child: &mut Child) -> Exit {
    match child.wait() {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or_default()),
        },
        Err(error) => Exit::NotStarted(format!("wait: {error}")),
    }
}

/// Copies a pipe into frames. Frames are written in one call each, so two pumps do not mix.
fn pump(
    mut from: impl Read + Send + 'static,
    port: std::io::Result<File>,
    frame: fn(Vec<u8>) -> Frame,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let Ok(mut port) = port else { return };
        let mut buffer = [0; 16384];
        while let Ok(len) = from.read(&mut buffer) {
            let Some(bytes) = buffer.get(..len).filter(|bytes| !bytes.is_empty()) else {
                return;
            };
            if frame(bytes.to_vec()).write(&mut port).is_err() {
                return;
            }
        }
    })
}

fn send_kernel_log(log: &mut KernelLog, port: &mut &File) -> Result<()> {
    for record in log.drain() {
        Frame::Kernel(record).write(port)?;
    }
    Ok(())
}

/// The device node of the port with our name.
fn control_port() -> Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports")
        .context("no virtio-serial device")?
        .flatten()
    {
        if mounts::read(entry.path().join("name")).is_ok_and(|name| name.trim() == CONTROL_PORT) {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    bail!("no virtio-serial port {CONTROL_PORT}")
}

/// A VF passes traffic only while its PF is up, and a distribution would have set the links up by now.
fn set_links_up() -> Result<()> {
    for entry in fs::read_dir("/sys/class/net")?.flatten() {
        let index = mounts::read(entry.path().join("ifindex"))?.trim().parse()?;
        link::set_up(index).with_context(|| format!("set {} up", entry.file_name().to_string_lossy()))?;
    }
    Ok(())
}

fn uptime_ms() -> Result<u64> {
    let uptime = mounts::read("/proc/uptime")?;
    let (seconds, rest) = uptime.split_once('.').context("/proc/uptime")?;
    let hundredths: u64 = rest.get(..2).context("/proc/uptime")?.parse()?;
    Ok(seconds.parse::<u64>()? * 1000 + hundredths * 10)
}
