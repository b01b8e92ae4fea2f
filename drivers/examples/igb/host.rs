//! A host of the network on a virtual function: an address, and a TCP/IP stack that is polled or waits for interrupts.

use crate::common::Function;
use crate::mac::mac;
use anyhow::{Context, Result, anyhow};
use clap::Args;
use drivers::igbvf::phy::Device;
use drivers::igbvf::{MacAddress, PortOptions, PortState};
use drivers::{Backing, VfioBacking};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::{IpAddress, IpCidr, Ipv4Address, Ipv4Cidr};
use std::time::Duration;

/// Which host to be.
#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    #[command(flatten)]
    function: Function,
    /// Address and prefix to use
    #[arg(long, default_value = "10.0.2.20/24", value_parser = cidr)]
    address: Ipv4Cidr,
    /// Gateway to other networks
    #[arg(long)]
    gateway: Option<Ipv4Address>,
    /// Ethernet address to use [default: that which the PF has for the function, or a random one]
    #[arg(long, value_parser = mac)]
    mac: Option<MacAddress>,
    /// Wait for interrupts instead of polling
    #[arg(long)]
    interrupts: bool,
}

/// The host.
pub(crate) struct Host {
    pub(crate) sockets: SocketSet<'static>,
    pub(crate) interface: Interface,
    pub(crate) device: Device<VfioBacking>,
    backing: VfioBacking,
}

/// Descriptors of each ring.
const DEPTH: u16 = 256;
/// How long the link may take to come up.
const LINK: Duration = Duration::from_secs(10);

impl Host {
    pub(crate) fn new(args: &HostArgs) -> Result<Self> {
        let backing = args.function.open()?;
        let options = PortOptions {
            mac: args.mac,
            interrupts: args.interrupts,
            ..PortOptions::default()
        };
        let mut device = Device::open(&backing, options, DEPTH)?;
        let now = now(&backing);
        let mut interface = Interface::new(Config::new(device.address().into()), &mut device, now);
        let mut room = Ok(());
        interface.update_ip_addrs(|addresses| room = addresses.push(IpCidr::Ipv4(args.address)));
        room.map_err(|address| anyhow!("no room for {address}"))?;
        if let Some(gateway) = args.gateway {
            interface.routes_mut().add_default_ipv4_route(gateway)?;
        }
        while !matches!(device.port().check()?, PortState::Up(_)) {
            (backing.now() < LINK).then_some(()).context("there is no link")?;
            backing.idle();
        }
        eprintln!("{} at {} on {}", args.address, device.address(), how(args.interrupts));
        Ok(Self {
            sockets: SocketSet::new(Vec::new()),
            interface,
            device,
            backing,
        })
    }

    /// Time since the function was taken over.
    pub(crate) fn now(&self) -> Instant {
        now(&self.backing)
    }

    /// Lets frames go both ways.
    pub(crate) fn poll(&mut self) -> Result<()> {
        let now = self.now();
        self.device.poll(now, &mut self.interface, &mut self.sockets)?;
        Ok(())
    }

    /// Until there is something to do, at most for `limit`; only with interrupts.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<()> {
        let delay = self.interface.poll_delay(self.now(), &self.sockets);
        let limit = delay.map_or(limit, |delay| limit.min(delay.into()));
        if !limit.is_zero() {
            self.device.wait(Some(limit))?;
        }
        Ok(())
    }
}

fn now(backing: &VfioBacking) -> Instant {
    let micros = i64::try_from(backing.now().as_micros());
    Instant::from_micros(micros.unwrap_or(i64::MAX))
}

fn cidr(text: &str) -> Result<Ipv4Cidr, String> {
    let parts = text.split_once('/');
    let parsed = parts.and_then(|(address, prefix)| Some((address.parse().ok()?, prefix.parse().ok()?)));
    let valid = parsed.filter(|(_, prefix)| *prefix <= 32);
    let (address, prefix) = valid.ok_or_else(|| "an address, `/` and the length of its prefix".to_owned())?;
    Ok(Ipv4Cidr::new(address, prefix))
}

fn how(interrupts: bool) -> &'static str {
    if interrupts { "interrupts" } else { "polling" }
}

/// What is asked for another host: its address.
pub(crate) fn v4(address: Ipv4Address) -> IpAddress {
    IpAddress::Ipv4(address)
}
