//! What the device does with a frame on its way: checksums and VLAN tags.
//!
//! Follows the 82576 datasheet §7.2.2.2 (contexts) and §7.2.5 (checksums): the device sums up what lies behind a header, so the sum of the
//! pseudo header (RFC 9293 §3.1, RFC 768) has to be in the checksum's place.

use super::spec::{RxStatus, TxContext, TxData, TxHeaders};

/// What the device is to do with a frame that it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// Put in this VLAN tag.
    pub vlan: Option<u16>,
    /// Put in these checksums.
    pub checksums: Option<Checksums>,
}

/// Where the checksums of a frame go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksums {
    /// Bytes of the Ethernet header, 127 at most.
    pub mac_len: u8,
    /// Bytes of the IP header, 511 at most.
    pub ip_len: u16,
    /// Whether it is IPv4, whose own checksum is put in, too. IPv6 has none.
    pub is_ipv4: bool,
    /// The protocol inside, if it is one of these; its checksum holds the sum of the pseudo header.
    pub l4: Option<L4>,
}

/// A protocol whose checksum the device knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L4 {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Bytes of an Ethernet header without a tag.
const ETHERNET: u8 = 14;
/// The longest headers that a context can say.
const MAC_LIMIT: u8 = 0x7f;
const IP_LIMIT: u16 = 0x1ff;

impl Offload {
    /// Whether the device can be told of such headers.
    pub(super) fn is_possible(self) -> bool {
        self.checksums
            .is_none_or(|checksums| checksums.mac_len <= MAC_LIMIT && checksums.ip_len <= IP_LIMIT)
    }

    /// The context descriptor for it, if it is [possible](Self::is_possible).
    pub(super) fn context(self) -> [u64; 2] {
        // A tag goes behind the addresses, but the device wants to know of a whole header (§7.2.2.2).
        let mut headers = TxHeaders::new()
            .with_vlan(self.vlan.unwrap_or_default())
            .with_mac_len(ETHERNET);
        let mut context = TxContext::new().with_kind(TxContext::CONTEXT).with_is_advanced(true);
        if let Some(checksums) = self.checksums {
            headers.set_mac_len(checksums.mac_len & MAC_LIMIT);
            headers.set_ip_len(checksums.ip_len & IP_LIMIT);
            context.set_is_ipv4(checksums.is_ipv4);
            context.set_l4(match checksums.l4 {
                Some(L4::Tcp) => TxContext::TCP,
                Some(L4::Udp) | None => TxContext::UDP,
            });
        }
        [headers.into_bits(), context.into_bits()]
    }

    /// What a data descriptor says of it.
    pub(super) fn apply(self, data: TxData) -> TxData {
        let checksums = self.checksums;
        data.with_with_vlan(self.vlan.is_some())
            .with_ip_checksum(checksums.is_some_and(|checksums| checksums.is_ipv4))
            .with_l4_checksum(checksums.is_some_and(|checksums| checksums.l4.is_some()))
    }
}

impl Checksums {
    /// Prepares a frame with TCP or UDP in it for the device: puts the sum of the pseudo header where the checksum goes. `None`, and nothing
    /// changed, if it is something else, or a fragment.
    #[must_use]
    pub fn prepare(frame: &mut [u8]) -> Option<Self> {
        let packet = Packet::parse(frame)?;
        let sum = fold(packet.pseudo_header(frame)?);
        put(frame, packet.checksum_at(), sum)?;
        if packet.is_ipv4 {
            put(frame, packet.mac_len + 10, 0)?;
        }
        Some(Self {
            mac_len: u8::try_from(packet.mac_len).ok()?,
            ip_len: u16::try_from(packet.ip_len).ok()?,
            is_ipv4: packet.is_ipv4,
            l4: Some(packet.l4),
        })
    }

    /// Whether a frame that was received is intact: when the device has looked at a checksum and found it right, or else by the frame's bytes,
    /// as its word that one is wrong says nothing of what it did not look at, nor of UDP without a checksum. True of what has no checksum that
    /// is known here.
    #[must_use]
    pub fn are_right(frame: &[u8], status: RxStatus) -> bool {
        let Some(packet) = Packet::parse(frame) else {
            return true;
        };
        let ip_is_found_right = status.ip_checked() && !status.is_ip_wrong();
        let l4_is_found_right = (status.l4_checked() || status.udp_checked()) && !status.is_l4_wrong();
        (!packet.is_ipv4 || ip_is_found_right || packet.is_ip_right(frame))
            && (l4_is_found_right || packet.is_l4_right(frame))
    }
}

/// TCP or UDP in a frame.
#[derive(Debug, Clone, Copy)]
struct Packet {
    mac_len: usize,
    ip_len: usize,
    is_ipv4: bool,
    l4: L4,
    /// Bytes after the IP header.
    l4_len: usize,
}

impl Packet {
    fn parse(frame: &[u8]) -> Option<Self> {
        let (mac_len, ethertype) = match half(frame, 12)? {
            0x8100 => (18, half(frame, 16)?),
            other => (14, other),
        };
        let ip = frame.get(mac_len..)?;
        let (ip_len, total, protocol, is_ipv4) = match ethertype {
            0x0800 => {
                let first = *ip.first()?;
                let ip_len = usize::from(first & 0xf) * 4;
                let is_fragment = half(ip, 6)? & 0x3fff != 0;
                if first >> 4 != 4 || ip_len < 20 || is_fragment {
                    return None;
                }
                (ip_len, usize::from(half(ip, 2)?), *ip.get(9)?, true)
            }
            // A packet with further headers is left to its owner.
            0x86dd => (40, 40 + usize::from(half(ip, 4)?), *ip.get(6)?, false),
            _ => return None,
        };
        let (l4, shortest) = match protocol {
            6 => (L4::Tcp, 20),
            17 => (L4::Udp, 8),
            _ => return None,
        };
        let l4_len = total.checked_sub(ip_len)?;
        if l4_len < shortest || ip.len() < total {
            return None;
        }
        Some(Self {
            mac_len,
            ip_len,
            is_ipv4,
            l4,
            l4_len,
        })
    }

    fn l4_at(&self) -> usize {
        self.mac_len + self.ip_len
    }

    fn checksum_at(&self) -> usize {
        self.l4_at()
            + match self.l4 {
                L4::Tcp => 16,
                L4::Udp => 6,
            }
    }

    /// The sum of addresses, protocol and length.
    fn pseudo_header(&self, frame: &[u8]) -> Option<u32> {
        let addresses = if self.is_ipv4 { 12..20 } else { 8..40 };
        let addresses = frame.get(self.mac_len + addresses.start..self.mac_len + addresses.end)?;
        let protocol = match self.l4 {
            L4::Tcp => 6,
            L4::Udp => 17,
        };
        let len = u32::try_from(self.l4_len).ok()?;
        Some(sum(addresses) + protocol + len)
    }

    fn is_ip_right(&self, frame: &[u8]) -> bool {
        let header = frame.get(self.mac_len..self.l4_at());
        header.is_some_and(|header| fold(sum(header)) == u16::MAX)
    }

    fn is_l4_right(&self, frame: &[u8]) -> bool {
        let body = frame.get(self.l4_at()..self.l4_at() + self.l4_len);
        let (Some(pseudo), Some(body)) = (self.pseudo_header(frame), body) else {
            return false;
        };
        // UDP over IPv4 may go without.
        let is_without = matches!(self.l4, L4::Udp) && self.is_ipv4 && half(frame, self.checksum_at()) == Some(0);
        is_without || fold(pseudo + sum(body)) == u16::MAX
    }
}

/// The sum of at most 64 KiB as big-endian halves; it cannot overflow.
fn sum(bytes: &[u8]) -> u32 {
    let (halves, rest) = bytes.as_chunks::<2>();
    let whole: u32 = halves.iter().map(|half| u32::from(u16::from_be_bytes(*half))).sum();
    whole + rest.first().map_or(0, |last| u32::from(*last) << 8)
}

/// To 16 bits, in one's complement.
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    u16::try_from((once & 0xffff) + (once >> 16)).unwrap_or(u16::MAX)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|half| u16::from_be_bytes(*half))
}

fn put(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value.to_be_bytes();
    Some(())
}

/// A sum that the device would put in, for who plays the device.
#[cfg(feature = "fake")]
pub(crate) fn finish(frame: &mut [u8], data: TxData, context: [u64; 2]) -> Option<()> {
    let (headers, context) = (TxHeaders::from_bits(context[0]), TxContext::from_bits(context[1]));
    let (mac_len, ip_len) = (usize::from(headers.mac_len()), usize::from(headers.ip_len()));
    if data.ip_checksum() {
        let header = frame.get(mac_len..mac_len + ip_len)?;
        let value = !fold(sum(header));
        put(frame, mac_len + 10, value)?;
    }
    if data.l4_checksum() {
        let start = mac_len + ip_len;
        let value = !fold(sum(frame.get(start..)?));
        let place = if context.l4() == TxContext::TCP { 16 } else { 6 };
        put(frame, start + place, value)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame with TCP or UDP over IPv4 or IPv6, without checksums.
    fn frame(is_ipv4: bool, l4: L4, body: &[u8]) -> Vec<u8> {
        let header = match l4 {
            L4::Tcp => 20,
            L4::Udp => 8,
        };
        let protocol = if header == 20 { 6 } else { 17 };
        let len = u16::try_from(header + body.len()).unwrap().to_be_bytes();
        let mut frame = vec![2; 12];
        if is_ipv4 {
            let total = u16::try_from(20 + header + body.len()).unwrap().to_be_bytes();
            frame.extend([8, 0, 0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0]);
            frame.extend([10, 0, 2, 15, 10, 0, 2, 2]);
        } else {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, len[0], len[1], protocol, 64]);
            frame.extend([0xfe; 32]);
        }
        frame.extend(vec![0; header]);
        frame.extend(body);
        frame
    }

    proptest! {
        #[test]
        fn what_is_prepared_and_finished_is_right(is_ipv4: bool, is_tcp: bool, body in prop::collection::vec(any::<u8>(), 0..64)) {
            let l4 = if is_tcp { L4::Tcp } else { L4::Udp };
            let mut frame = frame(is_ipv4, l4, &body);
            let checksums = Checksums::prepare(&mut frame).unwrap();
            prop_assert_eq!((checksums.is_ipv4, checksums.l4), (is_ipv4, Some(l4)));
            let offload = Offload { vlan: None, checksums: Some(checksums) };
            let data = offload.apply(TxData::new());
            finish(&mut frame, data, offload.context()).unwrap();
            prop_assert!(Checksums::are_right(&frame, RxStatus::new()));
            let suspect = RxStatus::new().with_is_ip_wrong(true).with_is_l4_wrong(true);
            prop_assert!(Checksums::are_right(&frame, suspect), "nothing was looked at");
            prop_assert!(Checksums::are_right(&frame, suspect.with_ip_checked(true).with_udp_checked(true)), "looked at again");
            // Any other byte is noticed: of the body, or the addresses.
            let last = frame.len() - 1;
            frame[last] ^= 0x40;
            prop_assert!(!Checksums::are_right(&frame, RxStatus::new()));
            prop_assert!(Checksums::are_right(&frame, RxStatus::new().with_ip_checked(true).with_l4_checked(true)));
            prop_assert!(Checksums::are_right(&frame, RxStatus::new().with_ip_checked(true).with_udp_checked(true)));
            prop_assert!(!Checksums::are_right(&frame, RxStatus::new().with_l4_checked(true).with_is_l4_wrong(true)));
        }

        #[test]
        fn whatever_the_bytes_are_nothing_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..80), ip: bool) {
            if ip && bytes.len() > 14 {
                (bytes[12], bytes[13], bytes[14]) = (8, 0, 0x45);
            }
            let before = bytes.clone();
            let _right = Checksums::are_right(&bytes, RxStatus::new());
            if Checksums::prepare(&mut bytes).is_none() {
                prop_assert_eq!(bytes, before);
            }
        }
    }

    #[test]
    fn fragments_and_other_protocols_are_left_alone() {
        let mut fragment = frame(true, L4::Udp, &[1, 2, 3]);
        fragment[20] = 0x20;
        assert_eq!(Checksums::prepare(&mut fragment), None);
        let mut icmp = frame(true, L4::Udp, &[1, 2, 3]);
        icmp[23] = 1;
        assert_eq!(Checksums::prepare(&mut icmp), None);
        assert!(Checksums::are_right(&icmp, RxStatus::new()));
    }
}
