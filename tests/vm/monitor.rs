//! QEMU's monitor from inside its machine (QMP: QEMU Machine Protocol): devices are pulled out and put in.

use crate::background::{LONG, pause};
use crate::machine::read;
use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::time::Instant;

/// A connection. QEMU has one at a time, which stays as it is when nobody has the port open.
#[derive(Debug)]
pub(crate) struct Monitor {
    port: File,
    /// What it has said and nobody has looked at: the last line may not be whole.
    heard: Vec<u8>,
}

impl Monitor {
    pub(crate) fn open() -> Result<Self> {
        let mut ports = fs::read_dir("/sys/class/virtio-ports")?.flatten();
        let port = ports.find(|port| read(port.path().join("name")).is_ok_and(|name| name == lab::MONITOR));
        let port = port.context("this machine has no monitor")?.file_name();
        let path = std::path::Path::new("/dev").join(port);
        let port = File::options().read(true).write(true).open(&path);
        let mut monitor = Self {
            port: port.with_context(|| format!("open {}", path.display()))?,
            heard: Vec::new(),
        };
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// A command, which must succeed.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let line = json!({"execute": command, "arguments": arguments}).to_string();
        writeln!(self.port, "{line}")?;
        let answer = self.hear(|said| said.get("return").is_some() || said.get("error").is_some())?;
        ensure!(answer.get("return").is_some(), "{line}: {answer}");
        Ok(())
    }

    /// Waits for an event about a device.
    pub(crate) fn wait_for(&mut self, event: &str, device: &str) -> Result<()> {
        let is_it = |said: &Value| {
            said.get("event").is_some_and(|name| name == event)
                && said.pointer("/data/device").is_some_and(|id| id == device)
        };
        self.hear(is_it).with_context(|| format!("{event} of {device}"))?;
        Ok(())
    }

    /// The next line that is wanted; those before it are passed over.
    fn hear(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + LONG;
        loop {
            while let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                let said = serde_json::from_slice(&line).context("the monitor says what is no JSON")?;
                if is_wanted(&said) {
                    return Ok(said);
                }
            }
            ensure!(Instant::now() < deadline, "the monitor says nothing of it");
            let mut ports = [PollFd::new(&self.port, PollFlags::IN)];
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            if poll(&mut ports, Some(&at_once))? == 0 {
                pause()?;
                continue;
            }
            let mut bytes = [0; 4096];
            let len = self.port.read(&mut bytes)?;
            ensure!(len > 0, "QEMU has closed its monitor");
            self.heard.extend(bytes.iter().take(len));
        }
    }
}
