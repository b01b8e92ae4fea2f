//! Formats of the 82576's virtual function: descriptors and messages to the physical function.
//!
//! Follows the Intel 82576EB Gigabit Ethernet Controller Datasheet: §7.1.5 (advanced receive descriptors), §7.2.2 (advanced transmit
//! descriptors), §7.8 (virtualization). The messages are no part of the device but a convention of its drivers; they are those of
//! Linux (`drivers/net/ethernet/intel/igb/e1000_mbox.h`).

use bitfield_struct::bitfield;
use std::fmt;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A descriptor of a ring: two words, which the driver writes and the device writes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Descriptor {
    /// The first eight bytes.
    pub low: U64,
    /// The last eight bytes: what the device reports is in here.
    pub high: U64,
}

/// Length in bytes of a descriptor.
pub const DESCRIPTOR_LEN: usize = size_of::<Descriptor>();
const _: () = assert!(DESCRIPTOR_LEN == 16, "a descriptor has 16 bytes (§7.1.5, §7.2.2)");

/// The first word of a receive descriptor as the device writes it back (§7.1.5.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RxInfo {
    /// What the hash was made of; 0 for none.
    #[bits(4)]
    pub rss_type: u8,
    /// What the device recognized in the packet.
    #[bits(13)]
    pub packet_type: u16,
    #[bits(15)]
    __: u16,
    /// The hash, or the packet's checksum and IP identification.
    pub hash: u32,
}

/// The second word of a receive descriptor as the device writes it back (§7.1.5.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RxStatus {
    /// DD: the device is done with the descriptor.
    pub is_done: bool,
    /// EOP: the packet ends in this buffer.
    pub is_end: bool,
    __: bool,
    /// VP: a VLAN tag was taken out.
    pub has_vlan: bool,
    /// UDPCS: a checksum of UDP was looked at.
    pub udp_checked: bool,
    /// L4I: a checksum of TCP or UDP was looked at.
    pub l4_checked: bool,
    /// IPCS: a checksum of IPv4 was looked at.
    pub ip_checked: bool,
    #[bits(11)]
    __: u16,
    /// LB: it came from another function of the same port.
    pub is_local: bool,
    #[bits(10)]
    __: u16,
    /// L4E: the checksum of TCP or UDP is wrong.
    pub is_l4_wrong: bool,
    /// IPE: the checksum of IPv4 is wrong.
    pub is_ip_wrong: bool,
    /// RXE: the frame was damaged on the wire.
    pub is_damaged: bool,
    /// Bytes in this buffer.
    pub length: u16,
    /// The VLAN tag that was taken out.
    pub vlan: u16,
}

/// The second word of a transmit data descriptor (§7.2.2.3); the first is the address.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct TxData {
    /// DTALEN: bytes in this buffer.
    pub length: u16,
    #[bits(4)]
    __: u8,
    /// DTYP: [`DATA`](Self::DATA).
    #[bits(4)]
    pub kind: u8,
    /// EOP: the packet ends in this buffer.
    pub is_end: bool,
    /// IFCS: append the frame check sequence.
    pub with_fcs: bool,
    __: bool,
    /// RS: write back once this is done.
    pub report: bool,
    __: bool,
    /// DEXT: an advanced descriptor.
    pub is_advanced: bool,
    /// VLE: put in the VLAN tag of the context.
    pub with_vlan: bool,
    /// TSE: cut it into segments.
    pub segment: bool,
    #[bits(4)]
    __: u8,
    /// IDX: which context.
    #[bits(3)]
    pub context: u8,
    __: bool,
    /// IXSM: put in the checksum of IPv4.
    pub ip_checksum: bool,
    /// TXSM: put in the checksum of TCP or UDP.
    pub l4_checksum: bool,
    #[bits(4)]
    __: u8,
    /// PAYLEN: bytes of the whole packet, in its first descriptor.
    #[bits(18)]
    pub packet_len: u32,
}

impl TxData {
    /// Its [`kind`](Self::kind).
    pub const DATA: u8 = 3;
    /// What every descriptor of a frame says, besides its lengths and what is to be done with it.
    const FRAME: u64 = Self::new()
        .with_kind(Self::DATA)
        .with_is_advanced(true)
        .with_with_fcs(true)
        .into_bits();
    const PACKET_LEN_SHIFT: u32 = Self::new().with_packet_len(1).into_bits().trailing_zeros();
    const END: u64 = Self::new().with_is_end(true).into_bits();

    /// A descriptor of a frame of `packet_len` bytes, which are at most 18 bits. The same as by setters, which are calls of functions.
    #[inline]
    #[must_use]
    pub const fn of_frame(packet_len: u32) -> Self {
        Self::from_bits(Self::FRAME | (packet_len as u64) << Self::PACKET_LEN_SHIFT)
    }

    /// The same for a piece of `len` bytes, of a descriptor without one.
    #[inline]
    #[must_use]
    pub const fn of_piece(self, len: u16, is_end: bool) -> Self {
        let end = if is_end { Self::END } else { 0 };
        Self::from_bits(self.into_bits() | len as u64 | end)
    }
}

/// The first word of a context descriptor (§7.2.2.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct TxHeaders {
    /// IPLEN: bytes of the IP header.
    #[bits(9)]
    pub ip_len: u16,
    /// MACLEN: bytes of the Ethernet header.
    #[bits(7)]
    pub mac_len: u8,
    /// The VLAN tag to put in.
    pub vlan: u16,
    __: u32,
}

/// The second word of a context descriptor (§7.2.2.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct TxContext {
    #[bits(10)]
    __: u16,
    /// TUCMD.IPV4: the packet is IPv4; IPv6 otherwise.
    pub is_ipv4: bool,
    /// TUCMD.L4T: 0 for UDP, 1 for TCP.
    #[bits(2)]
    pub l4: u8,
    #[bits(7)]
    __: u8,
    /// DTYP: [`CONTEXT`](Self::CONTEXT).
    #[bits(4)]
    pub kind: u8,
    #[bits(5)]
    __: u8,
    /// DEXT: an advanced descriptor.
    pub is_advanced: bool,
    #[bits(2)]
    __: u8,
    #[bits(4)]
    __: u8,
    /// IDX: which context.
    #[bits(3)]
    pub context: u8,
    __: bool,
    /// L4LEN: bytes of the TCP header.
    pub l4_len: u8,
    /// MSS: bytes of a segment.
    pub mss: u16,
}

impl TxContext {
    /// Its [`kind`](Self::kind).
    pub const CONTEXT: u8 = 2;
    /// UDP, for [`l4`](Self::l4).
    pub const UDP: u8 = 0;
    /// TCP, for [`l4`](Self::l4).
    pub const TCP: u8 = 1;
}

/// An address of Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether it can be a station's: neither a group's nor zero.
    #[must_use]
    pub fn is_station(self) -> bool {
        !self.is_group() && self.0 != [0; 6]
    }

    /// Whether it is a group's: multicast or broadcast.
    #[must_use]
    pub fn is_group(self) -> bool {
        let Self([first, ..]) = self;
        first & 1 != 0
    }

    /// By which the device filters it as a multicast address: 12 bits of it, those that the filter type 0 takes (§7.1.1.2).
    #[must_use]
    pub fn hash(self) -> u16 {
        let Self([.., fifth, sixth]) = self;
        (u16::from(fifth) >> 4 | u16::from(sixth) << 4) & 0xfff
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([a, b, c, d, e, g]) = self;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Words of the mailbox's memory (§7.8.2).
pub const MESSAGE_WORDS: usize = 16;
/// How many multicast addresses a VF can ask for.
pub const MULTICAST_LIMIT: usize = 30;

/// A message between a VF and its PF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Header, then what it is about. What is not used is 0.
    pub words: [u32; MESSAGE_WORDS],
}

/// The first word of a message.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Header {
    /// What it is: a constant of [`Message`].
    pub kind: u16,
    /// More about it, by its kind.
    pub info: u8,
    #[bits(5)]
    __: u8,
    /// CTS: the PF takes requests of this VF. Otherwise the VF has to reset itself first.
    pub is_clear: bool,
    /// The request is refused.
    pub is_refused: bool,
    /// The request is done.
    pub is_done: bool,
}

impl Message {
    /// The VF was reset, and wants its address.
    pub const RESET: u16 = 1;
    /// The VF's address; with info [`CLEAR`](Self::CLEAR) or [`ADD`](Self::ADD), further addresses.
    pub const SET_MAC: u16 = 2;
    /// The multicast addresses that the VF wants: info is how many, then their hashes.
    pub const SET_MULTICAST: u16 = 3;
    /// The VF wants (info 1) or leaves a VLAN.
    pub const SET_VLAN: u16 = 4;
    /// The longest frame.
    pub const SET_FRAME_LEN: u16 = 5;
    /// Which frames for others the VF wants: info [`ALL_MULTICAST`](Self::ALL_MULTICAST) or 0.
    pub const SET_PROMISCUOUS: u16 = 6;
    /// From the PF: it is there, and the VF is or is no longer [clear](Header::is_clear).
    pub const PF_CONTROL: u16 = 0x100;
    /// Info of [`SET_MAC`](Self::SET_MAC): no further addresses.
    pub const CLEAR: u8 = 1;
    /// Info of [`SET_MAC`](Self::SET_MAC): a further address.
    pub const ADD: u8 = 2;
    /// Info of [`SET_PROMISCUOUS`](Self::SET_PROMISCUOUS): all multicast frames.
    pub const ALL_MULTICAST: u8 = 2;

    /// A message of `kind` that says no more than that.
    #[must_use]
    pub fn new(kind: u16, info: u8) -> Self {
        let mut words = [0; MESSAGE_WORDS];
        let [header, ..] = &mut words;
        *header = Header::new().with_kind(kind).with_info(info).into_bits();
        Self { words }
    }

    /// About one number.
    #[must_use]
    pub fn with_number(mut self, number: u32) -> Self {
        let [_, first, ..] = &mut self.words;
        *first = number;
        self
    }

    /// About an address.
    #[must_use]
    pub fn with_mac(mut self, MacAddress([a, b, c, d, e, f]): MacAddress) -> Self {
        let [_, first, second, ..] = &mut self.words;
        *first = u32::from_le_bytes([a, b, c, d]);
        *second = u32::from_le_bytes([e, f, 0, 0]);
        self
    }

    /// The multicast addresses with these hashes; at most [`MULTICAST_LIMIT`] of them.
    #[must_use]
    pub fn multicast(hashes: &[u16]) -> Self {
        let count = hashes.len().min(MULTICAST_LIMIT);
        let mut message = Self::new(Self::SET_MULTICAST, u8::try_from(count).unwrap_or(0));
        let (_, body) = message.words.split_at_mut(1);
        let hashes = hashes.get(..count).unwrap_or_default();
        for (word, pair) in body.iter_mut().zip(hashes.chunks(2)) {
            *word = pair.iter().rev().fold(0, |word, hash| word << 16 | u32::from(*hash));
        }
        message
    }

    /// The first word.
    #[must_use]
    pub fn header(&self) -> Header {
        let [header, ..] = self.words;
        Header::from_bits(header)
    }

    /// The number that it is about.
    #[must_use]
    pub fn number(&self) -> u32 {
        let [_, number, ..] = self.words;
        number
    }

    /// The address that it is about.
    #[must_use]
    pub fn mac(&self) -> MacAddress {
        let [_, first, second, ..] = self.words;
        let ([a, b, c, d], [e, f, ..]) = (first.to_le_bytes(), second.to_le_bytes());
        MacAddress([a, b, c, d, e, f])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_where_the_device_looks_for_them() {
        let data = TxData::new()
            .with_length(0x1234)
            .with_kind(TxData::DATA)
            .with_is_end(true)
            .with_with_fcs(true)
            .with_report(true)
            .with_is_advanced(true);
        assert_eq!(data.into_bits(), 0x2b30_1234);
        let offload = TxData::new()
            .with_ip_checksum(true)
            .with_l4_checksum(true)
            .with_packet_len(0x3_ffff);
        assert_eq!(offload.into_bits() >> 32, 0xffff_c300);
        assert_eq!(
            TxData::new().with_with_vlan(true).with_segment(true).into_bits(),
            0xc000_0000
        );
        let headers = TxHeaders::new().with_ip_len(20).with_mac_len(14).with_vlan(5);
        assert_eq!(headers.into_bits(), 5 << 16 | 14 << 9 | 20);
        let context = TxContext::new()
            .with_is_ipv4(true)
            .with_l4(TxContext::TCP)
            .with_kind(TxContext::CONTEXT)
            .with_is_advanced(true)
            .with_mss(3)
            .with_l4_len(20);
        assert_eq!(context.into_bits(), (3 << 48) | (20 << 40) | 0x2020_0c00);
        let status = RxStatus::from_bits(0x0007_0040_a004_006b);
        assert!(status.is_done() && status.is_end() && status.has_vlan() && status.l4_checked() && status.ip_checked());
        assert!(status.is_local() && status.is_l4_wrong() && status.is_damaged() && !status.is_ip_wrong());
        assert_eq!((status.length(), status.vlan()), (64, 7));
    }

    #[test]
    fn a_message_carries_its_address_and_hashes_in_order() {
        let mac = MacAddress([2, 3, 4, 5, 6, 7]);
        let message = Message::new(Message::SET_MAC, Message::ADD).with_mac(mac);
        assert_eq!(message.words[..3], [0x0002_0002, 0x0504_0302, 0x0000_0706]);
        assert_eq!(message.mac(), mac);
        assert_eq!(mac.to_string(), "02:03:04:05:06:07");
        let message = Message::multicast(&[1, 2, 3]);
        assert_eq!(message.words[..3], [0x0003_0003, 0x0002_0001, 0x0000_0003]);
        assert_eq!(Message::multicast(&[7; 99]).header().info(), 30);
        assert_eq!(Message::multicast(&[7; 99]).words[15], 0x0007_0007);
        assert_eq!(MacAddress([1, 0, 0x5e, 0, 0, 0xfb]).hash(), 0xfb0);
    }
}
