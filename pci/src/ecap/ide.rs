//! Integrity and Data Encryption (PCIe 6.0 §7.9.26).

use crate::cap::{Capability, CapabilityId, Decode};
use crate::register::{Window, code, register, structure};
use crate::{Hex, Truncated};

structure! {
    /// Integrity and Data Encryption of links and of streams across switches.
    #[doc(alias = "PCI_EXT_CAP_ID_IDE")]
    pub struct Ide {
        /// What it can do.
        capability: IdeCapability,
        /// Control.
        control: IdeControl,
        /// Streams of the link, one for each traffic class.
        link_streams: Vec<LinkIdeStream>,
        /// Streams to chosen functions.
        selective_streams: Vec<SelectiveIdeStream>,
    }
}

structure! {
    /// A stream of the link.
    pub struct LinkIdeStream {
        /// Control.
        control: LinkIdeControl,
        /// Status.
        status: StreamStatus,
    }
}

structure! {
    /// A stream to chosen functions.
    pub struct SelectiveIdeStream {
        /// What it can do.
        capability: SelectiveIdeCapability,
        /// Control.
        control: SelectiveIdeControl,
        /// Status.
        status: StreamStatus,
        /// Last routing id of the stream.
        requester_limit: IdeRequesterLimit,
        /// First routing id of the stream.
        requester_base: IdeRequesterBase,
        /// Addresses of the stream.
        addresses: Vec<IdeAddressAssociation>,
    }
}

structure! {
    /// A range of addresses that belong to a stream.
    pub struct IdeAddressAssociation {
        /// Whether the range counts.
        valid: bool,
        /// First address.
        base: Hex<u64>,
        /// Last address.
        limit: Hex<u64>,
    }
}

register! {
    /// IDE capability register.
    pub struct IdeCapability: u32 {
        /// Streams of the link.
        link: bool = 1,
        /// Streams to chosen functions.
        selective: bool = 1,
        /// Streams can pass through.
        flow_through: bool = 1,
        /// Headers can be encrypted in part.
        partial_header_encryption: bool = 1,
        /// TLPs can be aggregated.
        aggregation: bool = 1,
        /// Plaintext CRC.
        pcrc: bool = 1,
        /// Keys are managed by IDE_KM.
        ide_km: bool = 1,
        /// Configuration requests can be part of a selective stream.
        selective_config: bool = 1,
        /// Algorithms, as a code; 0 is AES-GCM with 256-bit keys and a 96-bit MAC.
        algorithms: u8 = 5,
        /// Number of link streams less one.
        link_last_stream: u8 = 3,
        /// Number of selective streams less one.
        selective_last_stream: u8 = 8,
        /// Streams can be limited to TEE requests.
        tee_limited: bool = 1,
        /// TEE state is encoded in the header.
        xt: bool = 1,
        .. u8 = 6,
    }
}

register! {
    /// IDE control register.
    pub struct IdeControl: u32 {
        __: u8 = 2,
        /// Streams pass through.
        flow_through: bool = 1,
        .. u32 = 29,
    }
}

register! {
    /// Link IDE stream control register.
    pub struct LinkIdeControl: u32 {
        /// The stream is enabled.
        enable: bool = 1,
        /// TEE state is encoded in the header.
        xt: bool = 1,
        /// Aggregation of non-posted requests, as a code.
        aggregation_non_posted: u8 = 2,
        /// Aggregation of posted requests, as a code.
        aggregation_posted: u8 = 2,
        /// Aggregation of completions, as a code.
        aggregation_completion: u8 = 2,
        /// Plaintext CRC.
        pcrc: bool = 1,
        __: u8 = 1,
        /// How much of the header is encrypted, as a code.
        partial_header_encryption: u8 = 4,
        /// Algorithm, as a code.
        algorithm: u8 = 5,
        /// Traffic class.
        traffic_class: u8 = 3,
        __: u8 = 2,
        /// Number of the stream.
        stream_id: u8 = 8,
    }
}

register! {
    /// Selective IDE stream control register.
    pub struct SelectiveIdeControl: u32 {
        /// The stream is enabled.
        enable: bool = 1,
        /// TEE state is encoded in the header.
        xt: bool = 1,
        /// Aggregation of non-posted requests, as a code.
        aggregation_non_posted: u8 = 2,
        /// Aggregation of posted requests, as a code.
        aggregation_posted: u8 = 2,
        /// Aggregation of completions, as a code.
        aggregation_completion: u8 = 2,
        /// Plaintext CRC.
        pcrc: bool = 1,
        /// Configuration requests are part of the stream.
        config: bool = 1,
        /// How much of the header is encrypted, as a code.
        partial_header_encryption: u8 = 4,
        /// Algorithm, as a code.
        algorithm: u8 = 5,
        /// Traffic class.
        traffic_class: u8 = 3,
        /// What matches no other stream belongs to this one.
        default_stream: bool = 1,
        /// Only TEE requests.
        tee_limited: bool = 1,
        /// Number of the stream.
        stream_id: u8 = 8,
    }
}

register! {
    /// Selective IDE stream capability register.
    pub struct SelectiveIdeCapability: u32 {
        /// How many ranges of addresses there are.
        address_associations: u8 = 4,
        .. u32 = 28,
    }
}

register! {
    /// Status register of both kinds of stream.
    pub struct StreamStatus: u32 {
        /// State of the stream.
        state: IdeState = 4,
        __: u32 = 27,
        /// The other end reported a failed check.
        fail_received: bool = 1,
    }
}

register! {
    /// IDE RID association register 1.
    pub struct IdeRequesterLimit: u32 {
        __: u8 = 8,
        /// Last routing id.
        routing_id: Hex<u16> = 16,
        .. u8 = 8,
    }
}

register! {
    /// IDE RID association register 2.
    pub struct IdeRequesterBase: u32 {
        /// The range counts.
        valid: bool = 1,
        __: u8 = 7,
        /// First routing id.
        routing_id: Hex<u16> = 16,
        /// Segment, in flit mode.
        segment: Hex<u8> = 8,
    }
}

code! {
    /// State of a stream.
    pub struct IdeState: u8 {
        /// Not protected.
        INSECURE = 0 "insecure",
        /// Protected.
        SECURE = 2 "secure",
    }
}

const LINK_STREAMS: u16 = 0x0c;
const LINK_STREAM_LEN_BYTES: u16 = 8;

impl Decode for Ide {
    const ID: CapabilityId = CapabilityId::IDE;

    fn decode(capability: &Capability<'_>) -> Result<Self, Truncated> {
        let window = capability.window();
        let register: IdeCapability = window.read(0x04)?;
        let mut at = LINK_STREAMS;
        let mut link_streams = Vec::new();
        if register.link() {
            for _ in 0..=register.link_last_stream() {
                link_streams.push(LinkIdeStream {
                    control: window.read(at)?,
                    status: window.read(at + 4)?,
                });
                at += LINK_STREAM_LEN_BYTES;
            }
        }
        let mut selective_streams = Vec::new();
        if register.selective() {
            for _ in 0..=register.selective_last_stream() {
                let stream = SelectiveIdeStream::read(window, at)?;
                at = at.saturating_add(stream.len_bytes());
                selective_streams.push(stream);
            }
        }
        Ok(Self {
            capability: register,
            control: window.read(0x08)?,
            link_streams,
            selective_streams,
        })
    }
}

impl SelectiveIdeStream {
    const ADDRESSES: u16 = 0x14;
    const ADDRESS_LEN_BYTES: u16 = 12;

    fn len_bytes(&self) -> u16 {
        Self::ADDRESSES + Self::ADDRESS_LEN_BYTES * u16::from(self.capability.address_associations())
    }

    fn read(window: Window<'_>, at: u16) -> Result<Self, Truncated> {
        let register = |offset: u16| at.saturating_add(offset);
        let capability: SelectiveIdeCapability = window.read(at)?;
        let addresses = (0..u16::from(capability.address_associations()))
            .map(|index| {
                IdeAddressAssociation::read(window, register(Self::ADDRESSES + Self::ADDRESS_LEN_BYTES * index))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            capability,
            control: window.read(register(0x04))?,
            status: window.read(register(0x08))?,
            requester_limit: window.read(register(0x0c))?,
            requester_base: window.read(register(0x10))?,
            addresses,
        })
    }
}

impl IdeAddressAssociation {
    /// Bits 31:20 of base and limit share the first dword; the upper halves follow, that of the limit first.
    fn read(window: Window<'_>, at: u16) -> Result<Self, Truncated> {
        let low: u32 = window.read(at)?;
        let limit_high: u32 = window.read(at.saturating_add(4))?;
        let base_high: u32 = window.read(at.saturating_add(8))?;
        let address = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        Ok(Self {
            valid: low & 1 != 0,
            base: Hex(address(base_high, (low & 0x000f_ff00) << 12)),
            limit: Hex(address(limit_high, low & 0xfff0_0000 | 0xf_ffff)),
        })
    }
}
