//! Uses of network interfaces: routes of the main table (of IPv6: of all), and interfaces on top of them. Formats: `net/ipv4/fib_trie.c`
//! (`fib_route_seq_show`), `net/ipv6/route.c` (`rt6_info_route`), flags in `include/uapi/linux/{route,ipv6_route,if}.h`.

use super::{Interface, PolicyRoutes, SHOWN, Usage, Use};
use crate::file;
use pci::Sysfs;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// Limit in bytes: a full table of IPv6 in a router is about 35 MB.
const ROUTES_LIMIT: usize = 256 << 20;

const IFF_UP: u32 = 1;
const RTF_UP: u32 = 1;
const RTF_REJECT: u32 = 0x200;
const RTF_ANYCAST: u32 = 0x0010_0000;
const RTF_LOCAL: u32 = 0x8000_0000;

pub(super) fn read(sysfs: &Sysfs, usage: &mut Usage) {
    let class = Path::new("sys/class/net");
    let mut found = Vec::new();
    for name in usage.known(file::names(sysfs, class)) {
        let link = sysfs.read_link(class.join(&name)).ok();
        if let Some(function) = link.as_deref().and_then(file::function_of) {
            let is_up = flags(sysfs, &name).map(|flags| flags & IFF_UP != 0);
            let interface = Interface { name, is_up };
            usage.interfaces.entry(function).or_default().push(interface.clone());
            found.push((function, interface.name));
        }
    }
    if found.is_empty() {
        return;
    }
    let mut routes = Routes::default();
    let v4 = usage.known(file::text(sysfs, "proc/net/route", ROUTES_LIMIT));
    let v6 = usage.known(file::text_if_any(sysfs, "proc/net/ipv6_route", ROUTES_LIMIT));
    v4.lines()
        .skip(1)
        .filter_map(ipv4)
        .for_each(|(interface, to)| routes.add(interface, &to));
    v6.lines()
        .filter_map(ipv6)
        .for_each(|(interface, to)| routes.add(interface, &to));
    for (function, interface) in found {
        let uses = walk(sysfs, interface, &routes);
        usage.add(function, uses);
    }
}

/// Adds routes that the files above do not show.
pub(super) fn add_policy_routes(sysfs: &Sysfs, usage: &mut Usage, routes: Vec<PolicyRoutes>) {
    let class = Path::new("sys/class/net");
    let mut by_index: BTreeMap<u32, Found> = BTreeMap::new();
    for PolicyRoutes {
        interface,
        destinations: shown,
        count,
    } in routes
    {
        by_index.insert(interface, Found { shown, count });
    }
    let mut routes = Routes::default();
    for name in usage.known(file::names(sysfs, class)) {
        let index = sysfs.read(class.join(&name).join("ifindex")).ok();
        if let Some(found) = index.and_then(|index| by_index.remove(&index.parse().ok()?)) {
            routes.by_interface.insert(name, found);
        }
    }
    for (function, interfaces) in usage.interfaces.clone() {
        for interface in interfaces {
            let mut uses = walk(sysfs, interface.name, &routes);
            // What lies on an interface is known already.
            uses.retain(|used| matches!(used, Use::Routes { .. }));
            usage.add(function, uses);
        }
    }
}

fn flags(sysfs: &Sysfs, interface: &str) -> Option<u32> {
    let text = sysfs
        .read(Path::new("sys/class/net").join(interface).join("flags"))
        .ok()?;
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The uses of an interface and of all on top of it. Each is looked at once, so a loop in a hostile tree ends.
fn walk(sysfs: &Sysfs, interface: String, routes: &Routes) -> Vec<Use> {
    let mut uses = Vec::new();
    let mut seen = BTreeSet::new();
    let mut left = vec![interface];
    while let Some(interface) = left.pop() {
        if !seen.insert(interface.clone()) {
            continue;
        }
        if let Some(found) = routes.by_interface.get(&interface) {
            uses.push(Use::Routes {
                interface: interface.clone(),
                destinations: found.shown.clone(),
                count: found.count,
            });
        }
        for upper in uppers(sysfs, &interface) {
            let interface = interface.clone();
            left.push(upper.clone());
            uses.push(Use::Below { interface, upper });
        }
    }
    uses
}

/// What lies on an interface: every such device has an `upper_*` link there, a bond or bridge is its `master` as well.
fn uppers(sysfs: &Sysfs, interface: &str) -> BTreeSet<String> {
    let directory = Path::new("sys/class/net").join(interface);
    let names = sysfs.names(&directory).unwrap_or_default();
    let uppers = names.iter().filter_map(|name| name.strip_prefix("upper_"));
    uppers
        .map(str::to_owned)
        .chain(sysfs.link_name(directory.join("master")).ok())
        .collect()
}

#[derive(Default)]
struct Routes {
    by_interface: BTreeMap<String, Found>,
}

#[derive(Default)]
struct Found {
    shown: Vec<String>,
    count: usize,
}

impl Routes {
    fn add(&mut self, interface: &str, destination: &str) {
        // Not through `entry`, which wants an owned name for each of a million routes.
        let found = match self.by_interface.get_mut(interface) {
            Some(found) => found,
            None => self.by_interface.entry(interface.to_owned()).or_default(),
        };
        found.count += 1;
        let at = if destination.starts_with("default") {
            0
        } else {
            found.shown.len()
        };
        found.shown.insert(at, destination.to_owned());
        found.shown.truncate(SHOWN);
    }
}

/// Interface and destination of a line of `/proc/net/route`.
fn ipv4(line: &str) -> Option<(&str, String)> {
    let mut fields = line.split_ascii_whitespace();
    let interface = fields.next()?;
    let address = u32::from_str_radix(fields.next()?, 16).ok()?;
    let flags = u32::from_str_radix(fields.nth(1)?, 16).ok()?;
    let mask = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    if flags & RTF_UP == 0 || flags & RTF_REJECT != 0 {
        return None;
    }
    // Printed as the machine stores it, which is network order in memory.
    let address = Ipv4Addr::from(address.to_ne_bytes());
    let destination = match mask.count_ones() {
        0 => "default".to_owned(),
        len => format!("{address}/{len}"),
    };
    Some((interface, destination))
}

/// Interface and destination of a line of `/proc/net/ipv6_route`, unless every interface has such a route.
fn ipv6(line: &str) -> Option<(&str, String)> {
    let mut fields = line.split_ascii_whitespace();
    let address = Ipv6Addr::from(u128::from_str_radix(fields.next()?, 16).ok()?);
    let len = u8::from_str_radix(fields.next()?, 16).ok()?;
    let flags = u32::from_str_radix(fields.nth(6)?, 16).ok()?;
    let interface = fields.next()?;
    let is_own = flags & (RTF_LOCAL | RTF_ANYCAST | RTF_REJECT) != 0;
    let is_everywhere = address.is_unicast_link_local() || address.is_multicast();
    if flags & RTF_UP == 0 || is_own || is_everywhere || interface == "lo" {
        return None;
    }
    let destination = match len {
        0 => "default (IPv6)".to_owned(),
        len => format!("{address}/{len}"),
    };
    Some((interface, destination))
}

#[cfg(test)]
mod tests {
    use super::{ipv4, ipv6};

    #[test]
    #[cfg(target_endian = "little")]
    fn routes_of_ipv4_are_read() {
        let default = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0  ";
        assert_eq!(ipv4(default), Some(("eth0", "default".to_owned())));
        let subnet = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        assert_eq!(ipv4(subnet), Some(("eth0", "192.0.2.0/24".to_owned())));
        let unreachable = "eth0\t000200C0\t00000000\t0201\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        assert_eq!(ipv4(unreachable), None);
        assert_eq!(ipv4("eth0 zz"), None);
    }

    #[test]
    fn routes_of_ipv6_count_unless_every_interface_has_them() {
        let zero = "00000000000000000000000000000000";
        let line = |to: &str, len: &str, flags: &str, interface: &str| {
            format!("{to} {len} {zero} 00 {zero} 00000400 00000002 00000000 {flags} {interface}")
        };
        let net = "fd000000000000000000000000000000";
        assert_eq!(
            ipv6(&line(zero, "00", "00000003", "eth0")),
            Some(("eth0", "default (IPv6)".to_owned()))
        );
        assert_eq!(
            ipv6(&line(net, "40", "00000001", "eth0")),
            Some(("eth0", "fd00::/64".to_owned()))
        );
        assert_eq!(
            ipv6(&line("fe800000000000000000000000000000", "40", "00000001", "eth0")),
            None
        );
        assert_eq!(
            ipv6(&line("ff000000000000000000000000000000", "08", "00000001", "eth0")),
            None
        );
        assert_eq!(
            ipv6(&line("fd000000000000000000000000000002", "80", "80200001", "eth0")),
            None
        );
        assert_eq!(ipv6(&line(zero, "00", "00200200", "lo")), None);
    }
}
