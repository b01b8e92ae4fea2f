//! Network links over rtnetlink: up, with an address, with routes.

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::net::Ipv4Addr;

/// Sets a link up.
///
/// # Errors
/// What rtnetlink answers.
pub fn set_up(index: u32) -> Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    request(RouteNetlinkMessage::SetLink(message), 0)
}

/// Gives a link an IPv4 address.
///
/// # Errors
/// What rtnetlink answers.
pub fn add_address(index: u32, address: Ipv4Addr, prefix_len: u8) -> Result<()> {
    let message = address_message(index, address, prefix_len);
    request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Takes an IPv4 address from a link.
///
/// # Errors
/// What rtnetlink answers.
pub fn remove_address(index: u32, address: Ipv4Addr, prefix_len: u8) -> Result<()> {
    request(
        RouteNetlinkMessage::DelAddress(address_message(index, address, prefix_len)),
        0,
    )
}

/// Makes a network reachable through a link, in a table of routes.
///
/// # Errors
/// What rtnetlink answers.
pub fn add_route(index: u32, network: Ipv4Addr, prefix_len: u8, table: u8) -> Result<()> {
    let message = route_message(index, network, prefix_len, table);
    request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Takes such a route away.
///
/// # Errors
/// What rtnetlink answers.
pub fn remove_route(index: u32, network: Ipv4Addr, prefix_len: u8, table: u8) -> Result<()> {
    let message = route_message(index, network, prefix_len, table);
    request(RouteNetlinkMessage::DelRoute(message), 0)
}

fn route_message(index: u32, network: Ipv4Addr, prefix_len: u8, table: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = prefix_len;
    message.header.table = table;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Link;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(network)),
        RouteAttribute::Oif(index),
    ];
    message
}

fn address_message(index: u32, address: Ipv4Addr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix_len;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address.into()),
        AddressAttribute::Address(address.into()),
    ];
    message
}

fn request(message: RouteNetlinkMessage, flags: u16) -> Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .context("answer of rtnetlink")?
        .payload
    {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(error.to_io()).context("rtnetlink"),
        other => bail!("rtnetlink answered {other:?}"),
    }
}
