//! Requests to a server on a Unix socket, one connection each.
//!
//! As much of HTTP/1.1 (RFC 9112) as cloud-hypervisor's server speaks: a status line, fields, and a body as long as Content-Length says.

use super::wire::Wire;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

/// Most fields of an answer.
const FIELDS: usize = 100;

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Asks, and waits for the answer.
pub(super) fn ask(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&str>,
    file: Option<BorrowedFd<'_>>,
    deadline: Instant,
) -> io::Result<Answer> {
    let mut wire = Wire::connect(socket, deadline)?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n");
    if let Some(body) = body {
        request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    request += "\r\n";
    request += body.unwrap_or_default();
    wire.send(request.as_bytes(), file)?;
    loop {
        let answer = receive(&mut wire)?;
        // 1xx says that the answer is yet to come.
        if answer.status >= 200 {
            return Ok(answer);
        }
    }
}

fn receive(wire: &mut Wire) -> io::Result<Answer> {
    let malformed = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let text = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).map_err(|_not_utf8| malformed("the answer is not text"))?;
        Ok::<_, io::Error>(text.trim_end().to_owned())
    };
    let line = text(wire.line()?)?;
    let mut words = line.split(' ');
    let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    let status = words.next().and_then(|status| status.parse().ok());
    let status = status
        .filter(|_| is_http)
        .ok_or_else(|| malformed("no HTTP server answers there"))?;
    let mut len = None;
    for _ in 0..FIELDS {
        let field = text(wire.line()?)?;
        if field.is_empty() {
            let body = match len {
                Some(len) => wire.exactly(len)?,
                None => Vec::new(),
            };
            return Ok(Answer { status, body });
        }
        let (name, value) = field
            .split_once(':')
            .ok_or_else(|| malformed("a field without a name"))?;
        if name.eq_ignore_ascii_case("content-length") {
            let value = value
                .trim()
                .parse()
                .map_err(|_error| malformed("a length that is no number"))?;
            len = Some(value);
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(malformed("an answer in pieces"));
        }
    }
    Err(malformed("too many fields"))
}
