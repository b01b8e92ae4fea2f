//! HTTP over a virtual function of an 82576, from user space: a small server, and a small client.
//!
//! `vf-http BDF serve` answers `GET /` with what the port has counted and `GET /bytes/N` with N bytes, for measuring. `vf-http BDF fetch URL` gets a
//! document, writes it to standard output, or nowhere with `--discard`, and says how fast that was. The function is on vfio-pci, and its PF up.

#![expect(clippy::print_stderr, reason = "this is a program")]

mod common;
#[path = "igb/host.rs"]
mod host;
#[path = "igb/mac.rs"]
mod mac;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use host::{Host, HostArgs, v4};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::Ipv4Address;
use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Serve or fetch documents over a virtual function, without the kernel
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    host: HostArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve `/` and `/bytes/N`
    Serve {
        /// Port to listen on
        #[arg(long, default_value_t = 80)]
        port: u16,
        /// End after so many requests
        #[arg(long)]
        requests: Option<u64>,
    },
    /// Get a document
    Fetch {
        /// http://ADDRESS[:PORT]/PATH
        url: String,
        /// Do not write it
        #[arg(long)]
        discard: bool,
        /// Give up after so many seconds
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
}

/// Clients at a time.
const SOCKETS: usize = 4;
/// Bytes of a connection on their way, each way.
const WINDOW: usize = 256 << 10;
/// Longest header.
const HEADER: usize = 8 << 10;
const IDLE: Duration = Duration::from_millis(200);

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let mut host = Host::new(&args.host)?;
    match args.command {
        Command::Serve { port, requests } => serve(&mut host, port, requests)?,
        Command::Fetch { url, discard, timeout } => {
            fetch(&mut host, &url, discard, Duration::from_secs(timeout))?;
        }
    }
    eprintln!("recovered from {} resets of the PF", host.device.resets());
    Ok(ExitCode::SUCCESS)
}

fn socket(host: &mut Host) -> SocketHandle {
    let buffer = || SocketBuffer::new(vec![0; WINDOW]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_ack_delay(None);
    host.sockets.add(socket)
}

/// A connection of the server.
struct Connection {
    socket: SocketHandle,
    request: Vec<u8>,
    /// What is left of the answer: its header, and how many bytes of the body follow that.
    answer: Option<(Vec<u8>, u64)>,
}

fn serve(host: &mut Host, port: u16, requests: Option<u64>) -> Result<()> {
    let mut connections: Vec<_> = (0..SOCKETS)
        .map(|_| Connection {
            socket: socket(host),
            request: Vec::new(),
            answer: None,
        })
        .collect();
    let mut left = requests.unwrap_or(u64::MAX);
    for connection in &mut connections {
        connection.step(host, port)?;
    }
    eprintln!("listening on port {port}");
    loop {
        host.poll()?;
        let mut is_busy = false;
        for connection in &mut connections {
            left = left.saturating_sub(connection.step(host, port)?.into());
            is_busy |= host.sockets.get::<Socket<'_>>(connection.socket).is_active();
        }
        // The last answer has to arrive.
        if left == 0 && !is_busy {
            return Ok(());
        }
        host.wait(IDLE)?;
    }
}

impl Connection {
    /// Goes on as far as it can; whether a request came.
    fn step(&mut self, host: &mut Host, port: u16) -> Result<bool> {
        let socket = host.sockets.get_mut::<Socket<'_>>(self.socket);
        if !socket.is_open() {
            (self.request, self.answer) = (Vec::new(), None);
            socket.listen(port)?;
            return Ok(false);
        }
        let mut is_new = false;
        if self.answer.is_none() && socket.can_recv() {
            socket.recv(|bytes| {
                self.request.extend_from_slice(bytes);
                (bytes.len(), ())
            })?;
            if self.request.windows(4).any(|end| end == b"\r\n\r\n") {
                let statistics = host.device.port().statistics();
                self.answer = Some(answer(&self.request, &format!("{statistics:#?}\n")));
                is_new = true;
            } else if self.request.len() > HEADER {
                host.sockets.get_mut::<Socket<'_>>(self.socket).abort();
                return Ok(false);
            }
        }
        let socket = host.sockets.get_mut::<Socket<'_>>(self.socket);
        if let Some((header, body)) = &mut self.answer {
            while socket.can_send() && (!header.is_empty() || *body > 0) {
                if header.is_empty() {
                    let sent = socket.send(|room| {
                        let len = room.len().min(usize::try_from(*body).unwrap_or(usize::MAX));
                        if let Some(room) = room.get_mut(..len) {
                            room.fill(b'x');
                        }
                        (len, len)
                    })?;
                    *body -= sent as u64;
                } else {
                    let sent = socket.send_slice(header)?;
                    header.drain(..sent);
                }
            }
            if header.is_empty() && *body == 0 {
                socket.close();
            }
        } else if socket.state() == State::CloseWait {
            socket.close();
        }
        Ok(is_new)
    }
}

/// The header with a short body, and the length of a long one.
fn answer(request: &[u8], statistics: &str) -> (Vec<u8>, u64) {
    let line = String::from_utf8_lossy(request);
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    eprintln!("{method} {path}");
    let header = |status: &str, len: u64| {
        format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n")
    };
    let short = |status, body: &str| (header(status, body.len() as u64) + body).into_bytes();
    let count = path.strip_prefix("/bytes/").map(str::parse::<u64>);
    match (method, path, count) {
        ("GET", "/", _) => (short("200 OK", statistics), 0),
        ("GET", _, Some(Ok(count))) => (header("200 OK", count).into_bytes(), count),
        ("GET", ..) => (short("404 Not Found", "nothing here\n"), 0),
        _ => (short("405 Method Not Allowed", "only GET\n"), 0),
    }
}

fn fetch(host: &mut Host, url: &str, discard: bool, timeout: Duration) -> Result<()> {
    let rest = url.strip_prefix("http://").context("the URL begins with http://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (address, port) = authority.split_once(':').unwrap_or((authority, "80"));
    let (address, port): (Ipv4Address, u16) = (address.parse()?, port.parse()?);
    let handle = socket(host);
    let (end, start) = (Instant::now() + timeout, Instant::now());
    // Another one than that of the run before: the peer remembers connections for a while.
    let own = 49152 + u16::try_from(std::process::id() % 16384)?;
    let socket = host.sockets.get_mut::<Socket<'_>>(handle);
    socket.connect(host.interface.context(), (v4(address), port), own)?;
    let request = format!("GET /{path} HTTP/1.0\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    let mut unsent = request.into_bytes();
    let (mut header, mut count, mut body) = (Vec::new(), 0_u64, None);
    loop {
        host.poll()?;
        let socket = host.sockets.get_mut::<Socket<'_>>(handle);
        if !unsent.is_empty() && socket.can_send() {
            let sent = socket.send_slice(&unsent)?;
            unsent.drain(..sent);
        }
        let mut is_new = false;
        while socket.can_recv() {
            is_new = true;
            socket.recv(|bytes| {
                let taken = take(bytes, &mut header, &mut body, &mut count, discard);
                (bytes.len(), taken)
            })??;
        }
        if !socket.is_active() || (!socket.may_recv() && unsent.is_empty()) {
            break;
        }
        ensure!(
            Instant::now() < end,
            "no whole answer within {timeout:?}: {count} bytes so far"
        );
        if !is_new {
            host.wait(IDLE)?;
        }
    }
    let time = start.elapsed().as_secs_f64();
    finish(host, handle)?;
    let text = String::from_utf8_lossy(&header);
    let status = text.lines().next().unwrap_or_default();
    let Some(length) = body else { bail!("no answer") };
    ensure!(
        length.is_none_or(|length| length == count),
        "{count} bytes of {length:?} came"
    );
    ensure!(status.contains(" 200 "), "{status}");
    let rate = f64::from(u32::try_from(count / 1000)?) / 1000.0 / time;
    eprintln!("{count} bytes in {time:.3} s: {rate:.2} MB/s");
    Ok(())
}

/// Takes a piece of the answer: the header into memory, the body to standard output.
fn take(
    bytes: &[u8],
    header: &mut Vec<u8>,
    body: &mut Option<Option<u64>>,
    count: &mut u64,
    discard: bool,
) -> Result<()> {
    let mut rest = bytes;
    if body.is_none() {
        header.extend_from_slice(bytes);
        let Some(end) = header.windows(4).position(|end| end == b"\r\n\r\n") else {
            ensure!(header.len() <= HEADER, "a header of more than {HEADER} bytes");
            return Ok(());
        };
        let tail = header.len() - (end + 4);
        rest = bytes.get(bytes.len() - tail..).unwrap_or_default();
        header.truncate(end + 4);
        let text = String::from_utf8_lossy(header).to_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        *body = Some(length.map(|length| length.trim().parse()).transpose()?);
    }
    *count += rest.len() as u64;
    if !discard {
        stdout().write_all(rest)?;
    }
    Ok(())
}

/// Lets the connection end.
fn finish(host: &mut Host, handle: SocketHandle) -> Result<()> {
    host.sockets.get_mut::<Socket<'_>>(handle).close();
    let end = Instant::now() + IDLE;
    while host.sockets.get::<Socket<'_>>(handle).is_active() && Instant::now() < end {
        host.poll()?;
    }
    Ok(())
}
