//! Routes of IPv4 in tables other than main, as policy routing and VRFs have them: `/proc/net/route` shows the main table alone.
//! Asked for over rtnetlink (`rtnetlink(7)`, `RTM_GETROUTE`), whose answer waits for a lock that drivers hold while they come and
//! go, so only the access process asks.
//!
//! Not seen: a route that names a nexthop object, on a machine that does not resolve it (`nexthop_compat_mode` 0).

use super::SHOWN;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::collections::BTreeMap;
use std::io;

/// The routes of one interface in tables other than main.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRoutes {
    /// The interface's number (`ifindex`).
    pub interface: u32,
    /// Some of their destinations, each with its table; a default route first.
    pub destinations: Vec<String>,
    /// How many there are.
    pub count: usize,
}

/// Asks the kernel.
///
/// # Errors
/// What rtnetlink answers; [`io::ErrorKind::InvalidData`] for an answer that makes no sense.
pub(crate) fn dump() -> io::Result<Vec<PolicyRoutes>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut question = RouteMessage::default();
    question.header.address_family = AddressFamily::Inet;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetRoute(question)));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut found = BTreeMap::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        if !add_all(&answer, &mut found)? {
            return Ok(found.into_values().collect());
        }
    }
}

/// Adds the routes of one datagram; `false` after the last one.
fn add_all(mut answer: &[u8], found: &mut BTreeMap<u32, PolicyRoutes>) -> io::Result<bool> {
    while !answer.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(false),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => add(&route, found),
            _ => {}
        }
        // Messages begin at multiples of four bytes (`NLMSG_ALIGN`).
        let len = usize::try_from(message.header.length).map_or(usize::MAX, |len| len.max(1).next_multiple_of(4));
        answer = answer.get(len..).unwrap_or_default();
    }
    Ok(true)
}

fn add(route: &RouteMessage, found: &mut BTreeMap<u32, PolicyRoutes>) {
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let table = table.unwrap_or_else(|| route.header.table.into());
    let is_main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
    // Broadcasts and the machine's own addresses, which lie in the table local, are of other types.
    if is_main || route.header.kind != RouteType::Unicast || route.header.flags.contains(RouteFlags::Cloned) {
        return;
    }
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(address),
        _ => None,
    });
    let destination = match address {
        Some(address) => format!("{address}/{} (table {table})", route.header.destination_prefix_length),
        None => format!("default (table {table})"),
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(interface) => add_one(*interface, &destination, found),
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    add_one(hop.interface_index, &destination, found);
                }
            }
            _ => {}
        }
    }
}

fn add_one(interface: u32, destination: &str, found: &mut BTreeMap<u32, PolicyRoutes>) {
    let routes = found.entry(interface).or_insert_with(|| PolicyRoutes {
        interface,
        destinations: Vec::new(),
        count: 0,
    });
    routes.count += 1;
    let is_default = destination.starts_with("default");
    let at = if is_default { 0 } else { routes.destinations.len() };
    routes.destinations.insert(at, destination.to_owned());
    routes.destinations.truncate(SHOWN);
}

/// For the way between processes: a line for each interface.
pub(crate) fn to_text(routes: &[PolicyRoutes]) -> String {
    let line = |routes: &PolicyRoutes| {
        let PolicyRoutes {
            interface,
            destinations,
            count,
        } = routes;
        format!("{interface}\t{count}\t{}\n", destinations.join("\t"))
    };
    routes.iter().map(line).collect()
}

/// From what [`to_text`] makes.
pub(crate) fn from_text(text: &str) -> Option<Vec<PolicyRoutes>> {
    let routes = |line: &str| {
        let mut fields = line.split('\t');
        Some(PolicyRoutes {
            interface: fields.next()?.parse().ok()?,
            count: fields.next()?.parse().ok()?,
            destinations: fields.map(str::to_owned).collect(),
        })
    };
    text.lines().map(routes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::route::RouteNextHop;

    fn route(
        table: u32,
        kind: RouteType,
        to: Option<&str>,
        via: RouteAttribute,
    ) -> NetlinkMessage<RouteNetlinkMessage> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.kind = kind;
        // As the kernel does where the number does not fit.
        message.header.table = u8::try_from(table).unwrap_or(252);
        message.attributes = vec![RouteAttribute::Table(table), via];
        if let Some(to) = to {
            message.header.destination_prefix_length = 24;
            let to = RouteAttribute::Destination(RouteAddress::Inet(to.parse().unwrap()));
            message.attributes.push(to);
        }
        NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::from(RouteNetlinkMessage::NewRoute(message)),
        )
    }

    fn datagram(messages: Vec<NetlinkMessage<RouteNetlinkMessage>>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for mut message in messages {
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len(), 0);
            message.serialize(&mut bytes[start..]);
        }
        bytes
    }

    fn hop(interface: u32) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        hop.interface_index = interface;
        hop
    }

    #[test]
    fn routes_of_all_tables_but_main_are_found() {
        let oif = RouteAttribute::Oif;
        let both = RouteAttribute::MultiPath(vec![hop(3), hop(4)]);
        let bytes = datagram(vec![
            route(254, RouteType::Unicast, Some("192.0.2.0"), oif(2)),
            route(255, RouteType::Local, Some("192.0.2.7"), oif(2)),
            route(100, RouteType::Unicast, Some("198.51.100.0"), oif(3)),
            route(70_000, RouteType::Unicast, None, both),
            route(100, RouteType::BlackHole, Some("203.0.113.0"), oif(5)),
        ]);
        let mut found = BTreeMap::new();
        assert!(add_all(&bytes, &mut found).unwrap());
        let found: Vec<_> = found.into_values().collect();
        let routes = |interface, destinations: &[&str]| PolicyRoutes {
            interface,
            destinations: destinations.iter().map(ToString::to_string).collect(),
            count: destinations.len(),
        };
        let default = "default (table 70000)";
        let wanted = [
            routes(3, &[default, "198.51.100.0/24 (table 100)"]),
            routes(4, &[default]),
        ];
        assert_eq!(found, wanted);
        assert_eq!(from_text(&to_text(&found)), Some(found));
    }

    #[test]
    fn many_routes_are_counted() {
        let mut found = BTreeMap::new();
        for n in 0..9 {
            add_one(1, &format!("10.0.{n}.0/24 (table 9)"), &mut found);
        }
        assert_eq!((found[&1].count, found[&1].destinations.len()), (9, SHOWN));
    }

    #[test]
    fn this_machine_answers() {
        dump().unwrap();
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes: Vec<u8>, text: String) {
            drop(add_all(&bytes, &mut BTreeMap::new()));
            drop(from_text(&text));
        }
    }
}
