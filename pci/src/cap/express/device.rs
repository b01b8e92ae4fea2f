//! Device registers of the PCI Express capability (PCIe 6.0 §7.5.3.3 to §7.5.3.5 and §7.5.3.15 to §7.5.3.17).

use crate::register::{bits, code, register};
use crate::{Describe, Value};

register! {
    /// Device Capabilities.
    pub struct DeviceCapabilities: u32 {
        /// Largest payload supported.
        max_payload "max_payload_bytes": PayloadSize = 3,
        /// Bits of the function number that serve as tag.
        phantom_function_bits: u8 = 2,
        /// 8-bit tags are supported.
        extended_tag: bool = 1,
        /// How long the function can wait for a link to leave L0s.
        l0s_acceptable_latency: LatencyL0s = 3,
        /// How long the function can wait for a link to leave L1.
        l1_acceptable_latency: LatencyL1 = 3,
        /// Undefined since PCIe 1.1: attention button.
        attention_button: bool = 1,
        /// Undefined since PCIe 1.1: attention indicator.
        attention_indicator: bool = 1,
        /// Undefined since PCIe 1.1: power indicator.
        power_indicator: bool = 1,
        /// Role-based error reporting.
        role_based_error_reporting: bool = 1,
        /// The subclass of correctable error messages is sent.
        err_cor_subclass: bool = 1,
        /// Any payload size is received, whatever the control register says.
        rx_max_payload_fixed: bool = 1,
        /// Power that the slot provides.
        slot_power_limit "slot_power_limit_mw": PowerLimit = 10,
        /// Function level reset is supported.
        flr: bool = 1,
        /// Payload sizes may differ between directions.
        mixed_max_payload: bool = 1,
        /// TEE-IO (TDISP) is supported.
        tee_io: bool = 1,
        .. u8 = 1,
    }
}

register! {
    /// Device Control.
    pub struct DeviceControl: u16 {
        /// Correctable errors are reported.
        correctable_reporting: bool = 1,
        /// Non-fatal errors are reported.
        non_fatal_reporting: bool = 1,
        /// Fatal errors are reported.
        fatal_reporting: bool = 1,
        /// Unsupported requests are reported.
        unsupported_request_reporting: bool = 1,
        /// Relaxed ordering may be used.
        relaxed_ordering: bool = 1,
        /// Largest payload in use.
        max_payload "max_payload_bytes": PayloadSize = 3,
        /// 8-bit tags may be used.
        extended_tag: bool = 1,
        /// Function numbers may serve as tags.
        phantom_functions: bool = 1,
        /// Auxiliary power may be drawn.
        aux_power: bool = 1,
        /// The no-snoop attribute may be used.
        no_snoop: bool = 1,
        /// Largest read request in use.
        max_read_request "max_read_request_bytes": PayloadSize = 3,
        /// Bridges: configuration requests are retried. Others: start a function level reset; reads as zero.
        initiate_flr: bool = 1,
    }
}

register! {
    /// Device Status.
    pub struct DeviceStatus: u16 {
        /// A correctable error was detected.
        correctable_error: bool = 1,
        /// A non-fatal error was detected.
        non_fatal_error: bool = 1,
        /// A fatal error was detected.
        fatal_error: bool = 1,
        /// An unsupported request was received.
        unsupported_request: bool = 1,
        /// Auxiliary power is there.
        aux_power: bool = 1,
        /// Own requests have not completed yet.
        transactions_pending: bool = 1,
        /// An emergency power reduction took place.
        emergency_power_reduction: bool = 1,
        .. u16 = 9,
    }
}

register! {
    /// Device Capabilities 2.
    pub struct DeviceCapabilities2: u32 {
        /// Supported ranges of the completion timeout.
        completion_timeout_ranges: TimeoutRanges = 4,
        /// The completion timeout can be disabled.
        completion_timeout_disable: bool = 1,
        /// ARI forwarding is supported (ports).
        ari_forwarding: bool = 1,
        /// AtomicOps are routed (ports).
        atomic_routing: bool = 1,
        /// 32-bit AtomicOps are completed.
        atomic_completer_32: bool = 1,
        /// 64-bit AtomicOps are completed.
        atomic_completer_64: bool = 1,
        /// 128-bit compare-and-swap is completed.
        atomic_completer_cas_128: bool = 1,
        /// No relaxed ordering is needed between peers' posted requests.
        no_ro_peer_passing: bool = 1,
        /// Latency tolerance reporting.
        ltr: bool = 1,
        /// Processing hints as completer.
        tph_completer: TphCompleter = 2,
        /// Cache line size of LN completers; withdrawn in PCIe 6.0.
        ln_cache_line: u8 = 2,
        /// 10-bit tags as completer.
        tag_10_bit_completer: bool = 1,
        /// 10-bit tags as requester.
        tag_10_bit_requester: bool = 1,
        /// Optimized buffer flush/fill.
        obff: ObffSupport = 2,
        /// The 3-bit format field is understood.
        extended_format: bool = 1,
        /// End-to-end TLP prefixes.
        end_end_prefix: bool = 1,
        /// Most end-to-end prefixes.
        max_end_end_prefixes: PrefixCount = 2,
        /// Emergency power reduction.
        emergency_power_reduction: EmergencyPower = 2,
        /// Emergency power reduction needs initialization.
        emergency_power_init: bool = 1,
        __: u8 = 1,
        /// Deferrable memory writes as completer.
        dmwr_completer: bool = 1,
        /// Longest deferrable memory write, as a code: 64 or 128 bytes.
        dmwr_lengths: u8 = 2,
        /// Function readiness status.
        frs: bool = 1,
    }
}

register! {
    /// Device Control 2.
    pub struct DeviceControl2: u16 {
        /// Completion timeout.
        completion_timeout: CompletionTimeout = 4,
        /// The completion timeout is disabled.
        completion_timeout_disable: bool = 1,
        /// Ports: functions below may have 8-bit function numbers.
        ari_forwarding: bool = 1,
        /// AtomicOps may be requested.
        atomic_requester: bool = 1,
        /// Ports: AtomicOps are not let out.
        atomic_egress_blocking: bool = 1,
        /// ID-based ordering of requests.
        ido_request: bool = 1,
        /// ID-based ordering of completions.
        ido_completion: bool = 1,
        /// Latency tolerance reporting.
        ltr: bool = 1,
        /// An emergency power reduction is asked for.
        emergency_power_reduction_request: bool = 1,
        /// 10-bit tags may be requested.
        tag_10_bit_requester: bool = 1,
        /// Optimized buffer flush/fill.
        obff: ObffControl = 2,
        /// Ports: end-to-end prefixes are not let out.
        end_end_prefix_blocking: bool = 1,
    }
}

/// A size in bytes, stored as its logarithm less 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PayloadSize(pub u8);

bits!(PayloadSize: u8);

impl PayloadSize {
    /// 128 to 4096; `None` for a reserved code.
    #[must_use]
    pub const fn bytes(self) -> Option<u16> {
        if self.0 <= 5 { Some(128 << self.0) } else { None }
    }
}

impl Describe for PayloadSize {
    fn describe(&self) -> Value {
        self.bytes().describe()
    }
}

/// A set of ranges of the completion timeout: bit 0 is A (50 µs to 10 ms), bit 1 B (10 ms to 250 ms), bit 2 C (250 ms to 4 s),
/// bit 3 D (4 s to 64 s).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeoutRanges(pub u8);

bits!(TimeoutRanges: u8);

impl Describe for TimeoutRanges {
    fn describe(&self) -> Value {
        let set = ["A", "B", "C", "D"]
            .into_iter()
            .enumerate()
            .filter(|(bit, _)| self.0 >> bit & 1 != 0);
        Value::List(set.map(|(_, name)| Value::text(name)).collect())
    }
}

/// A number of end-to-end prefixes, stored in 2 bits: 0 stands for 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrefixCount(pub u8);

bits!(PrefixCount: u8);

impl PrefixCount {
    /// 1 to 4.
    #[must_use]
    pub const fn prefixes(self) -> u8 {
        if self.0 == 0 { 4 } else { self.0 }
    }
}

impl Describe for PrefixCount {
    fn describe(&self) -> Value {
        self.prefixes().describe()
    }
}

/// A power limit: value in bits 7:0, scale in bits 9:8 (PCIe 6.0 §7.5.3.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PowerLimit(pub u16);

bits!(PowerLimit: u16);

impl PowerLimit {
    /// In milliwatts; `None` for a reserved code.
    #[must_use]
    pub fn milliwatts(self) -> Option<u32> {
        let [value, scale] = self.0.to_le_bytes();
        let value = u32::from(value);
        match scale & 3 {
            // From 0xf0 on, the values at the largest scale stand for steps of 25 W.
            0 if value == 0xff => None,
            0 if value >= 0xf0 => Some((250 + 25 * (value - 0xf0)) * 1000),
            0 => Some(value * 1000),
            1 => Some(value * 100),
            2 => Some(value * 10),
            _ => Some(value),
        }
    }
}

impl Describe for PowerLimit {
    fn describe(&self) -> Value {
        self.milliwatts().describe()
    }
}

code! {
    /// Latency that a function accepts from L0s.
    pub struct LatencyL0s: u8 {
        /// At most 64 ns.
        NS_64 = 0 "<=64ns",
        /// At most 128 ns.
        NS_128 = 1 "<=128ns",
        /// At most 256 ns.
        NS_256 = 2 "<=256ns",
        /// At most 512 ns.
        NS_512 = 3 "<=512ns",
        /// At most 1 µs.
        US_1 = 4 "<=1us",
        /// At most 2 µs.
        US_2 = 5 "<=2us",
        /// At most 4 µs.
        US_4 = 6 "<=4us",
        /// Any.
        UNLIMITED = 7 "unlimited",
    }
}

code! {
    /// Latency that a function accepts from L1.
    pub struct LatencyL1: u8 {
        /// At most 1 µs.
        US_1 = 0 "<=1us",
        /// At most 2 µs.
        US_2 = 1 "<=2us",
        /// At most 4 µs.
        US_4 = 2 "<=4us",
        /// At most 8 µs.
        US_8 = 3 "<=8us",
        /// At most 16 µs.
        US_16 = 4 "<=16us",
        /// At most 32 µs.
        US_32 = 5 "<=32us",
        /// At most 64 µs.
        US_64 = 6 "<=64us",
        /// Any.
        UNLIMITED = 7 "unlimited",
    }
}

code! {
    /// Completion timeout (PCIe 6.0 §7.5.3.16).
    pub struct CompletionTimeout: u8 {
        /// The default range.
        DEFAULT = 0x0 "50us-50ms",
        /// Range A, shorter half.
        A_SHORT = 0x1 "50us-100us",
        /// Range A, longer half.
        A_LONG = 0x2 "1ms-10ms",
        /// Range B, shorter half.
        B_SHORT = 0x5 "16ms-55ms",
        /// Range B, longer half.
        B_LONG = 0x6 "65ms-210ms",
        /// Range C, shorter half.
        C_SHORT = 0x9 "260ms-900ms",
        /// Range C, longer half.
        C_LONG = 0xa "1s-3.5s",
        /// Range D, shorter half.
        D_SHORT = 0xd "4s-13s",
        /// Range D, longer half.
        D_LONG = 0xe "17s-64s",
    }
}

code! {
    /// Which processing hints a completer understands.
    pub struct TphCompleter: u8 {
        /// None.
        NONE = 0 "none",
        /// Hints with 8-bit steering tags.
        TPH = 1 "tph",
        /// Also with 16-bit steering tags.
        EXTENDED = 3 "tph+extended",
    }
}

code! {
    /// How a function can learn of buffer flush/fill times.
    pub struct ObffSupport: u8 {
        /// Not at all.
        NONE = 0 "none",
        /// By message.
        MESSAGE = 1 "message",
        /// By WAKE#.
        WAKE = 2 "wake",
        /// By either.
        BOTH = 3 "message+wake",
    }
}

code! {
    /// How buffer flush/fill times are signalled.
    pub struct ObffControl: u8 {
        /// Not at all.
        DISABLED = 0 "disabled",
        /// By message, variation A.
        MESSAGE_A = 1 "message-a",
        /// By message, variation B.
        MESSAGE_B = 2 "message-b",
        /// By WAKE#.
        WAKE = 3 "wake",
    }
}

code! {
    /// Emergency power reduction support.
    pub struct EmergencyPower: u8 {
        /// None.
        NONE = 0 "none",
        /// In a way of the device.
        DEVICE = 1 "device-specific",
        /// In the way of the form factor or of the device.
        FORM_FACTOR = 2 "form-factor",
    }
}
