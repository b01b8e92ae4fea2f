//! What the controllers of a subsystem share: namespaces, resources of virtual functions, and sanitize operations.

use super::namespace::Namespace;
use super::options::Options;
use std::collections::{BTreeMap, BTreeSet};

/// The highest number of a namespace.
pub(super) const MOST: u32 = 256;

/// What controllers share.
#[derive(Debug)]
pub(super) struct Subsystem {
    pub(super) namespaces: BTreeMap<u32, Namespace>,
    /// Bytes of all namespaces together.
    capacity: u64,
    /// Namespaces that have changed for a controller, which it has not heard of.
    notices: BTreeMap<u16, BTreeSet<u32>>,
    pub(super) resources: Resources,
    pub(super) secondary: Vec<Secondary>,
    sanitize: Sanitize,
}

/// Flexible resources that secondary controllers and their primary one share.
#[derive(Debug, Default)]
pub(super) struct Resources {
    pub(super) queues: Pool,
    pub(super) vectors: Pool,
}

/// One kind of resource.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pool {
    pub(super) total: u16,
    /// Those of the primary controller from its next reset on, and now.
    pub(super) primary_next: u16,
    pub(super) primary: u16,
    /// Most that a secondary controller can have.
    pub(super) most: u16,
}

/// A secondary controller: its number is its place + 1, which is its virtual function's, too.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Secondary {
    pub(super) is_online: bool,
    pub(super) queues: u16,
    pub(super) vectors: u16,
}

#[derive(Debug, Default, Clone, Copy)]
enum Sanitize {
    #[default]
    Never,
    /// Which controller does it, since and until when by its count, and what it does.
    UnderWay(u16, u64, u64),
    Done,
}

/// Of each kind, for each virtual function.
const FLEXIBLE: u16 = 4;

impl Subsystem {
    pub(super) fn new(options: &Options) -> Self {
        let most = (options.queues + 1).min(options.vectors()).max(2);
        let pool = Pool {
            total: options.functions.saturating_mul(FLEXIBLE),
            primary_next: 0,
            primary: 0,
            most,
        };
        let mut namespaces = BTreeMap::new();
        for (id, given) in (1..=MOST).zip(&options.namespaces) {
            let Some(layout) = options.format(given.format) else {
                continue;
            };
            let is_shared = options.functions != 0;
            let mut namespace = Namespace::new(given.blocks, given.format, layout, given.extended, is_shared);
            namespace.attached = (0..=options.functions).collect();
            namespaces.insert(id, namespace);
        }
        Self {
            namespaces,
            capacity: options.capacity,
            notices: BTreeMap::new(),
            resources: Resources {
                queues: pool,
                vectors: pool,
            },
            secondary: vec![Secondary::default(); options.functions.into()],
            sanitize: Sanitize::Never,
        }
    }

    pub(super) fn controllers(&self) -> Vec<u16> {
        (0_u16..).zip(0..=self.secondary.len()).map(|(id, _)| id).collect()
    }

    /// Bytes in all, and bytes that no namespace has.
    pub(super) fn capacity(&self) -> (u64, u64) {
        let bytes = |namespace: &Namespace| namespace.blocks.saturating_mul(namespace.stored_bytes() as u64);
        let used = self.namespaces.values().map(bytes).fold(0, u64::saturating_add);
        (self.capacity, self.capacity.saturating_sub(used))
    }

    /// A namespace has changed: the controllers that have it, or had it, are told.
    pub(super) fn notice(&mut self, controllers: impl IntoIterator<Item = u16>, namespace: u32) {
        for controller in controllers {
            self.notices.entry(controller).or_default().insert(namespace);
        }
    }

    pub(super) fn take_notices(&mut self, controller: u16) -> BTreeSet<u32> {
        self.notices.remove(&controller).unwrap_or_default()
    }

    fn secondary(&self, controller: u16) -> Option<&Secondary> {
        self.secondary.get(usize::from(controller.checked_sub(1)?))
    }

    pub(super) fn is_online(&self, controller: u16) -> bool {
        self.secondary(controller).is_none_or(|secondary| secondary.is_online)
    }

    /// Queues that a secondary controller has.
    pub(super) fn queues(&self, controller: u16) -> Option<u16> {
        self.secondary(controller).map(|secondary| secondary.queues)
    }

    /// Vectors that a secondary controller has.
    pub(super) fn vectors(&self, controller: u16) -> Option<u16> {
        self.secondary(controller).map(|secondary| secondary.vectors)
    }

    /// The primary controller's reset takes its secondary ones offline, and its new resources take effect.
    pub(super) fn was_reset(&mut self, controller: u16) {
        if controller == 0 {
            self.secondary
                .iter_mut()
                .for_each(|secondary| secondary.is_online = false);
            for pool in [&mut self.resources.queues, &mut self.resources.vectors] {
                pool.primary = pool.primary_next;
            }
        }
    }

    pub(super) fn begin_sanitize(&mut self, controller: u16, since: u64, until: u64) {
        self.sanitize = Sanitize::UnderWay(controller, since, until);
    }

    pub(super) fn is_sanitizing(&self) -> bool {
        matches!(self.sanitize, Sanitize::UnderWay(..))
    }

    /// Goes on with a sanitize operation of this controller; whether it has just ended.
    pub(super) fn go_on_sanitizing(&mut self, controller: u16, now: u64) -> bool {
        let Sanitize::UnderWay(by, _, until) = self.sanitize else {
            return false;
        };
        if by != controller || now < until {
            return false;
        }
        for namespace in self.namespaces.values_mut() {
            namespace.clear(0, u64::MAX);
        }
        self.sanitize = Sanitize::Done;
        true
    }

    /// Progress in 65536ths, and the status of the last operation.
    pub(super) fn sanitize_state(&self, now: u64) -> (u16, u16) {
        match self.sanitize {
            Sanitize::Never => (u16::MAX, 0),
            Sanitize::Done => (u16::MAX, 1),
            Sanitize::UnderWay(_, since, until) => {
                let whole = (until - since).max(1);
                let part = now.saturating_sub(since).min(whole) * 0xfffe / whole;
                (u16::try_from(part).unwrap_or(u16::MAX), 2)
            }
        }
    }
}
