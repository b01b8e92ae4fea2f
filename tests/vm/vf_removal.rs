//! What becomes of a virtual function of a network card whose driver in user space ends, or is killed while frames go both ways.

use crate::background::{Background, LONG, pause};
use crate::dma::{example, program};
use crate::drivers::{Interface, on_both};
use crate::machine::{dir, done, link, physical_function, read, vfs};
use crate::removal::{TIMES, nothing_is_pinned_since, pinned};
use anyhow::{Context, Result, ensure};
use lab::case::Case;
use lab_init::link as net;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::Instant;

pub(crate) fn cases() -> Vec<Case> {
    on_both![
        "a_vf_works_for_the_kernel_after_the_driver", 240, handed_back;
        "a_killed_driver_leaves_a_vf_that_works", 300, killed;
    ]
}

const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// Does something with a VF on vfio-pci, of a PF that the kernel drives and that is up.
fn on_vf(what: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    let before = pinned()?;
    let pf = physical_function("igb")?;
    net::set_up(interface_of(&pf)?)?;
    done(&["vf", "create", &pf, "1", "--driver", "vfio-pci"])?;
    let outcome = vfs(&pf).pop().context("no VF").and_then(|vf| what(&vf));
    done(&["vf", "delete", &pf])?;
    outcome?;
    nothing_is_pinned_since(before)
}

fn handed_back(interface: &str) -> Result<()> {
    on_vf(|vf| {
        (0..TIMES).try_for_each(|time| {
            pings(vf, interface)?;
            works_for_the_kernel(vf).with_context(|| format!("time {time}"))
        })
    })
}

/// Each is killed while the rings are in use, and another driver in user space comes at once, and then the kernel's.
fn killed(interface: &str) -> Result<()> {
    let gateway = GATEWAY.to_string();
    let traffic: [(&str, &[&str], &str); 3] = [
        ("vf-ping", &[&gateway, "-c", "65535", "-i", "0"], "bytes from"),
        (
            "vf-ping",
            &[&gateway, "-c", "65535", "-i", "1", "--interrupts"],
            "bytes from",
        ),
        ("vf-pps", &["tx", "--to", "02:00:00:00:00:01", "--seconds", "600"], ":"),
    ];
    on_vf(|vf| {
        traffic.iter().try_for_each(|(name, arguments, first)| {
            let mut runs = Background::start(
                Command::new(program(name)?)
                    .args([vf, "--interface", interface])
                    .args(*arguments),
            )?;
            runs.wait_for(first, LONG)?;
            for _ in 0..50 {
                pause()?;
            }
            ensure!(runs.is_running()?, "{name} has ended by itself: {}", runs.said()?);
            runs.kill()?;
            pings(vf, interface).with_context(|| format!("after {name} {arguments:?}"))?;
            works_for_the_kernel(vf).with_context(|| format!("after {name} {arguments:?}"))
        })
    })
}

fn pings(vf: &str, interface: &str) -> Result<()> {
    let gateway = GATEWAY.to_string();
    example(
        "vf-ping",
        &[vf, &gateway, "--interface", interface, "-c", "3", "-i", "50"],
    )?;
    Ok(())
}

/// The kernel's driver takes it, and is answered over it; then it is on vfio-pci again.
fn works_for_the_kernel(vf: &str) -> Result<()> {
    done(&["release", vf])?;
    ensure!(
        link(vf, "driver").as_deref() == Some("igbvf"),
        "the kernel does not take it"
    );
    let index = interface_of(vf)?;
    net::set_up(index)?;
    net::add_address(index, HOST, 24)?;
    let answered = is_answered(vf);
    net::remove_address(index, HOST, 24)?;
    answered?;
    done(&["bind", vf, "--driver", "vfio-pci", "--yes", "--force", "network"])?;
    Ok(())
}

/// The gateway answers when it is asked for its address over the function.
fn is_answered(vf: &str) -> Result<()> {
    let name = fs::read_dir(dir(vf).join("net"))?.next().context("no interface")??;
    let name = name.file_name().to_string_lossy().into_owned();
    let socket = UdpSocket::bind((HOST, 0))?;
    let deadline = Instant::now() + LONG;
    loop {
        // Refused or unreachable until the link is up; only the neighbour's address matters.
        drop(socket.send_to(b"x", (GATEWAY, 9)));
        let neighbours = read("/proc/net/arp")?;
        let is_complete = |line: &str| {
            let mut words = line.split_whitespace();
            words.next() == Some(&GATEWAY.to_string()) && words.nth(1) == Some("0x2") && words.nth(2) == Some(&name)
        };
        if neighbours.lines().any(is_complete) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{name}: nobody answers: {neighbours}");
        pause()?;
    }
}

/// The number of a function's network interface.
fn interface_of(bdf: &str) -> Result<u32> {
    let deadline = Instant::now() + LONG;
    loop {
        let entry = fs::read_dir(dir(bdf).join("net")).into_iter().flatten().next();
        if let Some(entry) = entry {
            return Ok(read(entry?.path().join("ifindex"))?.parse()?);
        }
        ensure!(Instant::now() < deadline, "{bdf} has no network interface");
        pause()?;
    }
}
