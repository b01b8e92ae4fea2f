//! The function as a port of the network: bring-up, its address and filters, link, counters, and recovery from a reset of the PF.

use super::control::{Control, Request};
use super::counters::{Counters, Sample, Statistics};
use super::function::{Function, Health, Kind, VECTORS};
use super::regs;
use super::rx::{RxOptions, RxQueue};
use super::spec::{MULTICAST_LIMIT, MacAddress};
use super::tx::{TxOptions, TxQueue};
use crate::{Backing, Error, ErrorKind, Presence, Result};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use vfio_core::EventFd;

/// A function of an 82576, and the only owner of its mailbox or filters. Its queues are made by it and live on their own.
///
/// It does nothing by itself: [`check`](Self::check) is to be called every now and then, and when its
/// [event](Self::event) is signalled.
#[derive(Debug)]
pub struct Port<B: Backing> {
    control: Control<B>,
    options: PortOptions,
    mac: MacAddress,
    /// The address that was asked for, if one was.
    wanted: Option<MacAddress>,
    filters: BTreeSet<MacAddress>,
    multicast: Vec<u16>,
    is_all_multicast: bool,
    vlans: BTreeSet<u16>,
    counters: Counters,
    function: Arc<Function<B>>,
}

/// How to bring up a port.
#[derive(Debug, Clone)]
pub struct PortOptions {
    /// The address to use. Without one it is that which the PF has for the function, or else a random one.
    pub mac: Option<MacAddress>,
    /// The longest frame in bytes, from the destination address to the last byte of the payload.
    pub frame_len: u16,
    /// Enables interrupts. Queues are then free to use them.
    pub interrupts: bool,
    /// The least time between two interrupts of a queue.
    pub interval: Duration,
    /// How long the PF may take to answer a request.
    pub answer_limit: Duration,
    /// How long a reset of the PF may take.
    pub reset_limit: Duration,
}

impl Default for PortOptions {
    fn default() -> Self {
        Self {
            mac: None,
            frame_len: 1514,
            interrupts: false,
            interval: Duration::from_micros(50),
            answer_limit: Duration::from_secs(1),
            reset_limit: Duration::from_secs(10),
        }
    }
}

/// The link of the port, which all of its functions share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// In Mb/s.
    pub speed: u32,
    /// Both ways at the same time.
    pub is_full_duplex: bool,
}

/// How the port is, for who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortState {
    /// It works, and there is a link.
    Up(Link),
    /// It works, but there is no link.
    NoLink,
    /// The PF was reset, or is being reset: [`Port::recover`] is to be called, then the queues are to be restarted.
    Reset,
}

/// The longest frame of the device, with its check sequence and a VLAN tag (§8.10.1).
const LONGEST: u16 = 0x3f00;
/// What a frame has besides [`PortOptions::frame_len`]: a VLAN tag and the check sequence.
const BESIDES: u16 = 4 + 4;

impl<B: Backing> Port<B> {
    /// Brings up the function: resets it, asks its PF for an address and says which frames it takes. A physical function is its own PF here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for another device; [`ErrorKind::Invalid`] while another port, or a queue of one, has the function;
    /// [`ErrorKind::Timeout`] when the PF does not answer: it has no driver, or is not up;
    /// [`ErrorKind::Refused`] when the PF does not allow the address.
    pub fn open(backing: &B, options: PortOptions) -> Result<Self> {
        let failed = |kind| Error::new(backing.bdf(), "open the port", kind);
        let Some(claim) = backing.removal().claim() else {
            let why = "another port has the function, or queues of one are still there";
            return Err(failed(ErrorKind::Invalid(why.into())));
        };
        let config = backing.config()?;
        let ids = config.u16(0).zip(config.u16(2));
        let Some(kind) = ids.and_then(|(vendor, device)| Kind::of(vendor, device)) else {
            let what = "only an 82576, 8086:10c9, and its virtual function, 8086:10ca";
            return Err(failed(ErrorKind::Unsupported(what.into())));
        };
        if options.frame_len > LONGEST - BESIDES {
            return Err(failed(ErrorKind::Invalid("a frame has at most 16120 bytes".into())));
        }
        if options.mac.is_some_and(|mac| !mac.is_station()) {
            return Err(failed(ErrorKind::Invalid("no address of a station".into())));
        }
        let len = kind.bar_len();
        if backing.bar_len(0)? < len {
            return Err(failed(ErrorKind::Unsupported("BAR 0 is too short".into())));
        }
        let registers = backing.map_bar(0, 0..len)?;
        let vectors = options.interrupts.then(|| backing.vectors(VECTORS)).transpose()?;
        let function = Arc::new(Function::new(kind, backing.clone(), registers, vectors, claim)?);
        let mut port = Self {
            control: Control::new(&function, options.answer_limit),
            mac: options.mac.unwrap_or_else(random_mac),
            wanted: options.mac,
            filters: BTreeSet::new(),
            multicast: Vec::new(),
            is_all_multicast: false,
            vlans: BTreeSet::new(),
            counters: Counters::default(),
            options,
            function,
        };
        port.recover()?;
        if port.wanted.is_some_and(|wanted| wanted != port.mac) {
            let why = "the physical function has another address for this virtual function";
            return Err(failed(ErrorKind::Refused(why.into())));
        }
        Ok(port)
    }

    /// Brings the function up again after a reset of the PF: waits until that is over, resets the function, and asks for all that was asked for
    /// before. Its queues stand still until each of them is restarted.
    ///
    /// What the PF does not grant any more is given up with a warning: its [address](Self::mac) is then that which the PF has for it.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and [`ErrorKind::Gone`] once the function is, or is wanted back. It can be called again.
    pub fn recover(&mut self) -> Result<()> {
        const STEP: &str = "recover the port";
        self.function.worsen(Health::Down);
        let begun = self.function.epoch();
        if self.function.health() == Health::Gone {
            return Err(self.function.failed(STEP, ErrorKind::Gone));
        }
        self.function.start()?;
        let given = self.control.reset(self.options.reset_limit)?;
        self.function.set_up_vectors(self.options.interval);
        self.counters.rebase(Sample::read(&self.function));
        self.claim_mac(given)?;
        let frame_len = self.options.frame_len.saturating_add(BESIDES);
        self.control.request(Request::FrameLen(frame_len))?;
        self.ask_again()?;
        self.function.set_running(begun, STEP)
    }

    /// Asks for its address.
    fn claim_mac(&mut self, given: Option<MacAddress>) -> Result<()> {
        let wanted = self.wanted.or(given).unwrap_or(self.mac);
        if given != Some(wanted) {
            let asked = self.control.request(Request::Mac(wanted));
            if let Some(given) = given.filter(|_| is_refusal(&asked)) {
                tracing::warn!(%wanted, %given, "the address is not granted");
                self.mac = given;
                return Ok(());
            }
            asked?;
        }
        self.mac = wanted;
        Ok(())
    }

    /// Asks for what was granted before; what is not any more is given up.
    fn ask_again(&mut self) -> Result<()> {
        for vlan in self.vlans.clone() {
            if !is_granted_still(self.control.request(Request::Vlan(vlan, true)))? {
                self.vlans.remove(&vlan);
            }
        }
        for mac in self.filters.clone() {
            if !is_granted_still(self.control.request(Request::AddMac(mac)))? {
                self.filters.remove(&mac);
            }
        }
        if self.is_all_multicast {
            let asked = self.control.request(Request::AllMulticast(true));
            self.is_all_multicast = is_granted_still(asked)?;
        }
        let asked = self.control.request(Request::Multicast(&self.multicast));
        if !is_granted_still(asked)? {
            self.multicast.clear();
        }
        Ok(())
    }

    /// Hears what the PF has to say, counts, and looks at the link. A dozen register accesses; call it when there is nothing else to do, and at
    /// least every half minute, lest a counter goes round.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Gone`] once the function is, or is wanted back.
    pub fn check(&mut self) -> Result<PortState> {
        const STEP: &str = "look after the port";
        if self.function.backing.removal().presence() != Presence::Present {
            // Who waits for a queue's interrupt is to know, too.
            self.function.wake();
            return Err(self.function.failed(STEP, ErrorKind::Gone));
        }
        if !self.listen() {
            return Ok(PortState::Reset);
        }
        if self.options.interrupts {
            self.function.arm_mailbox();
        }
        Ok(self.link().map_or(PortState::NoLink, PortState::Up))
    }

    /// The link, if there is one.
    #[must_use]
    pub fn link(&self) -> Option<Link> {
        let status = self.function.registers.read(regs::STATUS);
        (status.is_up() && status.into_bits() != u32::MAX).then(|| Link {
            speed: match status.speed() {
                0 => 10,
                1 => 100,
                _ => 1000,
            },
            is_full_duplex: status.is_full_duplex(),
        })
    }

    /// Its address.
    #[must_use]
    pub fn mac(&self) -> MacAddress {
        self.mac
    }

    /// The longest frame in bytes.
    #[must_use]
    pub fn frame_len(&self) -> u16 {
        self.options.frame_len
    }

    /// What the device has counted since the port was opened.
    pub fn statistics(&mut self) -> Statistics {
        self.listen();
        self.counters.total()
    }

    /// Whether the PF is well. What was counted is added only then: its reset sets the counters to zero.
    fn listen(&mut self) -> bool {
        let sample = Sample::read(&self.function);
        let is_well = self.control.listen();
        if is_well {
            self.counters.add(sample);
        }
        is_well
    }

    /// Changes its address.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when the PF was told another; [`ErrorKind::Invalid`] for a group's; those of a silent PF.
    pub fn set_mac(&mut self, mac: MacAddress) -> Result<()> {
        self.station(mac)?;
        self.control.request(Request::Mac(mac))?;
        (self.mac, self.wanted) = (mac, Some(mac));
        Ok(())
    }

    /// Adds an address whose frames are taken, too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when the PF has no room for it, or trusts only the first; otherwise as [`set_mac`](Self::set_mac).
    pub fn add_mac(&mut self, mac: MacAddress) -> Result<()> {
        self.station(mac)?;
        self.control.request(Request::AddMac(mac))?;
        self.filters.insert(mac);
        Ok(())
    }

    /// Takes back all addresses that were added.
    ///
    /// # Errors
    ///
    /// As [`set_mac`](Self::set_mac).
    pub fn clear_macs(&mut self) -> Result<()> {
        self.control.request(Request::ClearMacs(self.mac))?;
        self.filters.clear();
        Ok(())
    }

    /// Sets which multicast addresses it takes frames of. The device compares 12 bits of them, so others may come, too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for more than 30; those of a silent PF.
    pub fn set_multicast(&mut self, groups: &[MacAddress]) -> Result<()> {
        if groups.len() > MULTICAST_LIMIT || groups.iter().any(|group| !group.is_group()) {
            let kind = ErrorKind::Invalid("at most 30 addresses of groups".into());
            return Err(self.function.failed("set the multicast addresses", kind));
        }
        let hashes: Vec<u16> = groups.iter().map(|group| group.hash()).collect();
        self.control.request(Request::Multicast(&hashes))?;
        self.multicast = hashes;
        Ok(())
    }

    /// Whether it takes all multicast frames.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] by the PF; those of a silent one.
    pub fn set_all_multicast(&mut self, all: bool) -> Result<()> {
        self.control.request(Request::AllMulticast(all))?;
        self.is_all_multicast = all;
        Ok(())
    }

    /// Joins or leaves a VLAN. Tags of its frames are in [`RxStatus`](super::spec::RxStatus), once it has joined one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] when the PF has put the function into a VLAN; [`ErrorKind::Invalid`] above 4094; those of a silent PF.
    pub fn set_vlan(&mut self, vlan: u16, member: bool) -> Result<()> {
        if vlan > 4094 {
            let kind = ErrorKind::Invalid("VLANs are numbered from 0 to 4094".into());
            return Err(self.function.failed("join a VLAN", kind));
        }
        self.control.request(Request::Vlan(vlan, member))?;
        if member {
            self.vlans.insert(vlan);
        } else {
            self.vlans.remove(&vlan);
        }
        Ok(())
    }

    /// Makes a receive queue, 0 or 1. Which frames come to queue 1 is for the PF to say; Linux's sends all to queue 0.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a queue that has an owner, or that there is not; when there is no memory; when the device does not start it.
    pub fn rx_queue(&mut self, index: u8, options: RxOptions) -> Result<RxQueue<B>> {
        RxQueue::new(&self.function, index, options)
    }

    /// Makes a transmit queue, 0 or 1.
    ///
    /// # Errors
    ///
    /// As [`rx_queue`](Self::rx_queue).
    pub fn tx_queue(&mut self, index: u8, options: TxOptions) -> Result<TxQueue<B>> {
        TxQueue::new(&self.function, index, options)
    }

    /// Signalled when [`check`](Self::check) should be called; `None` without interrupts.
    #[must_use]
    pub fn event(&self) -> Option<&EventFd> {
        self.function.mailbox_event()
    }

    /// What it stands on.
    #[must_use]
    pub fn backing(&self) -> &B {
        &self.function.backing
    }

    fn station(&self, mac: MacAddress) -> Result<()> {
        if mac.is_station() {
            return Ok(());
        }
        let kind = ErrorKind::Invalid("no address of a station".into());
        Err(self.function.failed("set an address", kind))
    }
}

fn is_refusal(asked: &Result<()>) -> bool {
    matches!(asked, Err(error) if matches!(error.kind, ErrorKind::Refused(_)))
}

/// Whether it was granted; other errors than a refusal remain.
fn is_granted_still(asked: Result<()>) -> Result<bool> {
    if is_refusal(&asked) {
        tracing::warn!(?asked, "this is not granted any more");
        return Ok(false);
    }
    asked.map(|()| true)
}

/// An address that nobody else is likely to have, locally administered.
fn random_mac() -> MacAddress {
    let [a, b, c, d, e, f, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
    MacAddress([a & !1 | 2, b, c, d, e, f])
}
