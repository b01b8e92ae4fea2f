//! Virtual functions of a network card with drivers in user space, the card itself being the kernel's; and the card with such a driver.

use crate::background::{Background, LONG};
use crate::dma::example;
use crate::drivers::{Interface, on_both};
use crate::machine::{dir, done, physical_function, vfs};
use anyhow::{Context, Result, bail, ensure};
use lab::case::Case;
use lab_init::link as net;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

pub(crate) fn cases() -> Vec<Case> {
    on_both![
        "a_vf_pings", 120, ping;
        "a_pf_pings_and_is_the_kernels_again", 120, ping_from_the_pf;
        "a_vf_serves_http_to_the_kernel", 180, serve;
        "a_vf_fetches_from_another", 180, fetch;
    ]
}

const GATEWAY: &str = "10.0.2.2";
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// VFs on vfio-pci, of a PF that the kernel drives and that is up.
fn on_vfs(count: &str, what: impl FnOnce(&[String]) -> Result<()>) -> Result<()> {
    let pf = physical_function("igb")?;
    let name = fs::read_dir(dir(&pf).join("net"))?.next().context("no interface")??;
    let index = crate::machine::attribute(&pf, &format!("net/{}/ifindex", name.file_name().display()))?.parse()?;
    net::set_up(index)?;
    net::add_address(index, HOST, 24)?;
    let outcome = done(&["vf", "create", &pf, count, "--driver", "vfio-pci"]).and_then(|_| what(&vfs(&pf)));
    let deleted = done(&["vf", "delete", &pf, "--yes", "--force", "network"]);
    net::remove_address(index, HOST, 24)?;
    outcome?;
    deleted?;
    Ok(())
}

fn ping(interface: &str) -> Result<()> {
    on_vfs("1", |vfs| ping_from(vfs.first().context("no VF")?, interface))
}

fn ping_from_the_pf(interface: &str) -> Result<()> {
    let pf = physical_function("igb")?;
    done(&["bind", &pf, "--driver", "vfio-pci"])?;
    let outcome = ping_from(&pf, interface);
    let released = done(&["release", &pf]);
    outcome?;
    released?;
    // Its VFs need a PF that works.
    on_vfs("1", |vfs| ping_from(vfs.first().context("no VF")?, interface))
}

fn ping_from(function: &str, interface: &str) -> Result<()> {
    for more in [
        &["-c", "5", "-i", "50"][..],
        &["-c", "5", "-i", "50", "-s", "1400", "--interrupts"],
    ] {
        let usual = [function, GATEWAY, "--interface", interface];
        let said = example("vf-ping", &[&usual, more].concat())?.stdout;
        ensure!(said.contains("5 packets transmitted, 5 received"), "{said}");
        // 250 ms: who waits for the wrong thing takes a second for each.
        let time = said.split("time ").nth(1).and_then(|rest| rest.split("ms").next());
        let time: u64 = time.context("no time")?.parse()?;
        ensure!(time < 2500, "{said}");
    }
    Ok(())
}

/// What is asked of a server.
const BYTES: usize = 1_000_000;

fn serve(interface: &str) -> Result<()> {
    on_vfs("1", |vfs| {
        let vf = vfs.first().context("no VF")?;
        let mut server = Background::start(
            Command::new(crate::dma::program("vf-http")?)
                .args([vf, "--interface", interface, "--address", "10.0.2.20/24"])
                .args(["serve", "--requests", "2"]),
        )?;
        server.wait_for("listening", LONG)?;
        for (path, least) in [("/", 1), (&*format!("/bytes/{BYTES}"), BYTES)] {
            let address = SocketAddr::from(([10, 0, 2, 20], 80));
            let mut stream = TcpStream::connect_timeout(&address, LONG)?;
            stream.set_read_timeout(Some(LONG))?;
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            let end = answer
                .windows(4)
                .position(|end| end == b"\r\n\r\n")
                .context("no header")?;
            ensure!(answer.starts_with(b"HTTP/1.1 200"), "{:?}", answer.get(..end));
            ensure!(answer.len() - end - 4 >= least, "{path}: {} bytes", answer.len());
        }
        let said = server.end(LONG)?;
        ensure!(said.code == Some(0), "{said:?}");
        Ok(())
    })
}

fn fetch(interface: &str) -> Result<()> {
    on_vfs("2", |vfs| {
        let [server, client] = vfs else { bail!("not two VFs") };
        let mut server = Background::start(
            Command::new(crate::dma::program("vf-http")?)
                .args([server, "--interface", interface, "--address", "10.0.2.20/24"])
                .args(["serve", "--requests", "1"]),
        )?;
        server.wait_for("listening", LONG)?;
        let url = format!("http://10.0.2.20/bytes/{BYTES}");
        let arguments = [
            client,
            "--interface",
            interface,
            "--interrupts",
            "--address",
            "10.0.2.21/24",
            "fetch",
            &url,
        ];
        let body = example("vf-http", &arguments)?.stdout;
        ensure!(body.len() == BYTES, "{} bytes came", body.len());
        let said = server.end(LONG)?;
        ensure!(said.code == Some(0), "{said:?}");
        Ok(())
    })
}
