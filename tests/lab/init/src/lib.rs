//! What the lab's host side and its first process say to each other over one virtio-serial port.
//!
//! A frame is a kind (one byte), a length (four bytes, little endian) and a payload. The host sends [`Frame::Exec`] and may
//! follow it with [`Frame::Kill`]; the guest answers with output as it comes, what the kernel logged meanwhile, and one
//! [`Frame::Exit`]. One command runs at a time.
#![forbid(unsafe_code)]

pub mod disk;
pub mod link;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};

/// Name of the virtio-serial port that carries the frames.
pub const CONTROL_PORT: &str = "org.lab.control";

/// 9p tag under which the host's root is shared.
pub const HOST_TAG: &str = "host";

/// No frame is longer than this; a longer one means that the stream is out of step.
const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// One message, in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Guest: up and waiting for commands.
    Ready(Ready),
    /// Host: run a command.
    Exec(Exec),
    /// Host: end the running command and everything it started.
    Kill,
    /// Host: power off.
    PowerOff,
    /// Guest: bytes of the command's standard output.
    Stdout(Vec<u8>),
    /// Guest: bytes of the command's standard error.
    Stderr(Vec<u8>),
    /// Guest: one record of the kernel's log, without its prefix.
    Kernel(KernelRecord),
    /// Guest: the command ended.
    Exit(Exit),
}

/// The guest is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// `uname -r`.
    pub kernel: String,
    /// Time since the kernel started, by its own clock.
    pub uptime_ms: u64,
    /// What did not work while coming up.
    pub problems: Vec<String>,
}

/// A command to run below the host's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: String,
    /// On the machine's own terminal (`hvc0`) instead of captured.
    pub interactive: bool,
}

/// One record of `/dev/kmsg`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// Syslog severity: 0 emergency … 4 warning … 7 debug.
    pub level: u8,
    /// The text.
    pub text: String,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// With this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It could not be started.
    NotStarted(String),
}

impl Frame {
    /// Writes the frame and flushes.
    ///
    /// # Errors
    /// What the writer reports.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, payload) = match self {
            Self::Ready(ready) => (b'r', serde_json::to_vec(ready)?),
            Self::Exec(exec) => (b'x', serde_json::to_vec(exec)?),
            Self::Kill => (b'k', Vec::new()),
            Self::PowerOff => (b'p', Vec::new()),
            Self::Stdout(bytes) => (b'o', bytes.clone()),
            Self::Stderr(bytes) => (b'e', bytes.clone()),
            Self::Kernel(record) => (b'm', serde_json::to_vec(record)?),
            Self::Exit(exit) => (b'q', serde_json::to_vec(exit)?),
        };
        let len = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(payload.len() + 5);
        bytes.push(kind);
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&payload);
        to.write_all(&bytes)?;
        to.flush()
    }

    /// Reads one frame.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end of the stream, `InvalidData` for anything that is not a frame.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; 5];
        from.read_exact(&mut header)?;
        let [kind, len @ ..] = header;
        let len = usize::try_from(u32::from_le_bytes(len)).map_err(io::Error::other)?;
        if len > MAX_PAYLOAD_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame of {len} bytes"),
            ));
        }
        let mut payload = vec![0; len];
        from.read_exact(&mut payload)?;
        Ok(match kind {
            b'r' => Self::Ready(json(&payload)?),
            b'x' => Self::Exec(json(&payload)?),
            b'k' => Self::Kill,
            b'p' => Self::PowerOff,
            b'o' => Self::Stdout(payload),
            b'e' => Self::Stderr(payload),
            b'm' => Self::Kernel(json(&payload)?),
            b'q' => Self::Exit(json(&payload)?),
            other => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("frame kind {other:#x}"),
                ));
            }
        })
    }
}

fn json<T: DeserializeOwned>(payload: &[u8]) -> io::Result<T> {
    serde_json::from_slice(payload).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were_sent() {
        let frames = [
            Frame::Ready(Ready {
                kernel: "7.3.4-lab".into(),
                uptime_ms: 8000,
                problems: vec!["no overlay".into()],
            }),
            Frame::Exec(Exec {
                argv: vec!["ls".into(), "-l".into()],
                env: vec![("PATH".into(), "/bin".into())],
                cwd: "/".into(),
                interactive: false,
            }),
            Frame::Kill,
            Frame::PowerOff,
            Frame::Stdout(vec![0, 255, b'\n']),
            Frame::Stderr(Vec::new()),
            Frame::Kernel(KernelRecord {
                level: 4,
                text: "WARNING: CPU: 0".into(),
            }),
            Frame::Exit(Exit::Signal(9)),
        ];
        let mut wire = Vec::new();
        for frame in &frames {
            frame.write(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        for frame in &frames {
            assert_eq!(&Frame::read(&mut wire).unwrap(), frame);
        }
        assert_eq!(Frame::read(&mut wire).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_stream_out_of_step_is_an_error_and_allocates_nothing() {
        let wire = [b'o', 0xff, 0xff, 0xff, 0xff, 1, 2, 3];
        assert_eq!(
            Frame::read(&mut wire.as_slice()).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert_eq!(
            Frame::read(&mut [b'?', 0, 0, 0, 0].as_slice()).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
