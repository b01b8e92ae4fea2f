//! Registers of a device, mapped into the process.
//!
//! [`Mmio`] is checked when it is used: an access outside of it, off its alignment or against its direction is `None`. [`Reg`] and
//! [`Window`] are checked by the compiler: which way a register goes and that it lies inside.
//!
//! Each access is one load or store of the register's width, little-endian on the bus, and is ordered as a driver expects: what was
//! written to memory before a register is written is there for the device to see, and what is read from memory after a register was
//! read is not older than that (x86-64 by its memory model, aarch64 by barriers).
//!
//! While the function's memory decoding is off, or once it has gone, an access ends the process with SIGBUS or reads all ones: that is the
//! machine's answer, no undefined behaviour.

use crate::sys::mmio::Map;
use crate::{Access, RegionMap};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// A mapped part of a region. Offsets count in bytes from its start.
#[derive(Debug)]
pub struct Mmio {
    map: Map,
    access: Access,
}

impl Mmio {
    pub(crate) fn new(map: Map, access: Access) -> Self {
        Self { map, access }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which way it was mapped.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    pub(crate) fn address(&self) -> Option<*mut u8> {
        self.map.address()
    }

    fn allows(&self, access: Access, offset: usize, size: usize) -> bool {
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.len());
        inside && offset.is_multiple_of(size) && self.access.contains(access)
    }
}

macro_rules! accessors {
    ($($read:ident, $write:ident, $type:ty);*) => {
        impl Mmio {
            $(
                /// Reads a register; `None` outside the map, off its alignment, or when the map is not for reading.
                #[inline]
                #[must_use]
                pub fn $read(&self, offset: usize) -> Option<$type> {
                    self.allows(Access::READ, offset, size_of::<$type>()).then(|| <$type>::load(self, offset))
                }

                /// Writes a register; `None` outside the map, off its alignment, or when the map is not for writing.
                #[inline]
                #[must_use = "a write that did not happen"]
                pub fn $write(&self, offset: usize, value: $type) -> Option<()> {
                    self.allows(Access::WRITE, offset, size_of::<$type>()).then(|| value.store(self, offset))
                }
            )*
        }

        $(
            impl sealed::Bits for $type {
                #[inline]
                fn load(mmio: &Mmio, offset: usize) -> Self {
                    mmio.map.$read(offset)
                }

                #[inline]
                fn store(self, mmio: &Mmio, offset: usize) {
                    mmio.map.$write(offset, self);
                }
            }

            impl Register for $type {
                type Bits = $type;

                #[inline]
                fn from_bits(bits: $type) -> Self {
                    bits
                }

                #[inline]
                fn into_bits(self) -> $type {
                    self
                }
            }
        )*
    };
}

accessors!(
    read_u8, write_u8, u8;
    read_u16, write_u16, u16;
    read_u32, write_u32, u32;
    read_u64, write_u64, u64
);

use sealed::Bits as _;

mod sealed {
    /// The widths of a register.
    pub trait Bits: Copy {
        /// The caller has checked the offset.
        fn load(mmio: &super::Mmio, offset: usize) -> Self;
        /// The caller has checked the offset.
        fn store(self, mmio: &super::Mmio, offset: usize);
    }

    pub trait Direction {}
}

/// What a register holds: a number, or a type of the caller's around one, such as a `bitfield-struct`.
pub trait Register: Copy {
    /// The number: `u8`, `u16`, `u32` or `u64`.
    type Bits: sealed::Bits;
    /// From the number.
    fn from_bits(bits: Self::Bits) -> Self;
    /// To the number.
    fn into_bits(self) -> Self::Bits;
}

/// A register that is only read.
#[derive(Debug, Clone, Copy)]
pub enum ReadOnly {}
/// A register that is only written.
#[derive(Debug, Clone, Copy)]
pub enum WriteOnly {}
/// A register that is read and written.
#[derive(Debug, Clone, Copy)]
pub enum ReadWrite {}

/// A direction that includes reading.
pub trait Readable: sealed::Direction {}
/// A direction that includes writing.
pub trait Writable: sealed::Direction {}

impl sealed::Direction for ReadOnly {}
impl sealed::Direction for WriteOnly {}
impl sealed::Direction for ReadWrite {}
impl Readable for ReadOnly {}
impl Readable for ReadWrite {}
impl Writable for WriteOnly {}
impl Writable for ReadWrite {}

/// A register at a fixed place: its value, its direction, and its offset in bytes.
///
/// ```
/// use vfio_core::mmio::{ReadOnly, ReadWrite, Reg};
///
/// /// Controller capabilities, and controller configuration.
/// const CAP: Reg<u64, ReadOnly, 0x00> = Reg::new();
/// const CC: Reg<u32, ReadWrite, 0x14> = Reg::new();
/// ```
pub struct Reg<V, A, const OFFSET: usize>(PhantomData<fn(V, A)>);

impl<V, A, const OFFSET: usize> Reg<V, A, OFFSET> {
    /// The register.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a constant, never made at run time")]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<V, A, const OFFSET: usize> Clone for Reg<V, A, OFFSET> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V, A, const OFFSET: usize> Copy for Reg<V, A, OFFSET> {}

impl<V, A, const OFFSET: usize> fmt::Debug for Reg<V, A, OFFSET> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reg({OFFSET:#x})")
    }
}

/// `LEN` bytes of a map that are known to be there, so that a register inside needs no check when it is used.
///
/// `M` is what holds the map ([`HoldsMmio`]): a [`Mmio`] or a [`RegionMap`], by value, borrowed or shared.
///
/// ```no_run
/// use vfio_core::mmio::{ReadOnly, ReadWrite, Reg, Window};
/// use vfio_core::RegionMap;
///
/// const STATUS: Reg<u32, ReadOnly, 0x08> = Reg::new();
/// const CTRL: Reg<u32, ReadWrite, 0x00> = Reg::new();
///
/// fn start(bar: RegionMap) -> Option<bool> {
///     let registers = Window::<_, 0x1000>::new(bar, 0)?;
///     registers.write(CTRL, registers.read(CTRL) | 1);
///     Some(registers.read(STATUS) & 2 != 0)
/// }
/// ```
///
/// A register that is only read cannot be written:
///
/// ```compile_fail,E0277
/// use vfio_core::mmio::{Mmio, ReadOnly, Reg, Window};
///
/// const STATUS: Reg<u32, ReadOnly, 0x08> = Reg::new();
/// fn clear(registers: &Window<&Mmio, 0x1000>) {
///     registers.write(STATUS, 0);
/// }
/// ```
///
/// one that is only written cannot be read:
///
/// ```compile_fail,E0277
/// use vfio_core::mmio::{Mmio, Reg, Window, WriteOnly};
///
/// const DOORBELL: Reg<u32, WriteOnly, 0x08> = Reg::new();
/// fn read(registers: &Window<&Mmio, 0x1000>) -> u32 {
///     registers.read(DOORBELL)
/// }
/// ```
///
/// and one past the window, or off its alignment, does not compile:
///
/// ```compile_fail,E0080
/// use vfio_core::mmio::{Mmio, ReadOnly, Reg, Window};
///
/// const BEYOND: Reg<u32, ReadOnly, 0x1000> = Reg::new();
/// pub fn read(registers: &Window<&Mmio, 0x1000>) -> u32 {
///     registers.read(BEYOND)
/// }
/// # fn main() { let _used: fn(&Window<&Mmio, 0x1000>) -> u32 = read; }
/// ```
///
/// ```compile_fail,E0080
/// use vfio_core::mmio::{Mmio, ReadOnly, Reg, Window};
///
/// const ODD: Reg<u32, ReadOnly, 0x0a> = Reg::new();
/// pub fn read(registers: &Window<&Mmio, 0x1000>) -> u32 {
///     registers.read(ODD)
/// }
/// # fn main() { let _used: fn(&Window<&Mmio, 0x1000>) -> u32 = read; }
/// ```
#[derive(Debug, Clone)]
pub struct Window<M, const LEN: usize> {
    mmio: M,
    base: usize,
}

/// What has one map, and always the same: what a [`Window`] has checked of it once holds for good. Of a type that breaks this, an access
/// outside its map panics and a write to a map for reading ends the process; neither reaches other memory.
pub trait HoldsMmio {
    /// The map.
    fn mmio(&self) -> &Mmio;
}

impl HoldsMmio for Mmio {
    #[inline]
    fn mmio(&self) -> &Mmio {
        self
    }
}

impl HoldsMmio for RegionMap {
    #[inline]
    fn mmio(&self) -> &Mmio {
        self
    }
}

impl<T: HoldsMmio + ?Sized> HoldsMmio for &T {
    #[inline]
    fn mmio(&self) -> &Mmio {
        (**self).mmio()
    }
}

impl<T: HoldsMmio + ?Sized> HoldsMmio for Arc<T> {
    #[inline]
    fn mmio(&self) -> &Mmio {
        (**self).mmio()
    }
}

impl<M: HoldsMmio, const LEN: usize> Window<M, LEN> {
    /// The `LEN` bytes from `base`; `None` if not all of them are mapped for reading and writing, or `base` is no multiple of 8.
    pub fn new(mmio: M, base: usize) -> Option<Self> {
        let inside = base.checked_add(LEN).is_some_and(|end| end <= mmio.mmio().len());
        let both = mmio.mmio().access().contains(Access::READ | Access::WRITE);
        (inside && both && base.is_multiple_of(8)).then_some(Self { mmio, base })
    }

    /// Reads a register.
    #[inline]
    pub fn read<V: Register, A: Readable, const OFFSET: usize>(&self, _: Reg<V, A, OFFSET>) -> V {
        const {
            assert!(
                fits::<V::Bits>(OFFSET, LEN),
                "the register lies outside the window, or off its alignment"
            );
        };
        V::from_bits(V::Bits::load(self.mmio.mmio(), self.base + OFFSET))
    }

    /// Writes a register.
    #[inline]
    pub fn write<V: Register, A: Writable, const OFFSET: usize>(&self, _: Reg<V, A, OFFSET>, value: V) {
        const {
            assert!(
                fits::<V::Bits>(OFFSET, LEN),
                "the register lies outside the window, or off its alignment"
            );
        };
        value.into_bits().store(self.mmio.mmio(), self.base + OFFSET);
    }

    /// The whole map, for registers whose place is known only at run time.
    #[must_use]
    pub fn mmio(&self) -> &Mmio {
        self.mmio.mmio()
    }
}

const fn fits<B>(offset: usize, len: usize) -> bool {
    offset.is_multiple_of(size_of::<B>()) && offset <= len && size_of::<B>() <= len - offset
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEN: usize = 4096;

    fn mmio(access: Access) -> Mmio {
        Mmio::new(crate::sys::mmio::anonymous(LEN), access)
    }

    proptest! {
        #[test]
        fn an_access_happens_inside_or_not_at_all(offset in prop_oneof![0..2 * LEN, any::<usize>()], value: u64) {
            let mmio = mmio(Access::READ | Access::WRITE);
            let fits = |size: usize| offset.checked_add(size).is_some_and(|end| end <= LEN) && offset.is_multiple_of(size);
            prop_assert_eq!(mmio.write_u64(offset, value).is_some(), fits(8));
            prop_assert_eq!(mmio.read_u64(offset), fits(8).then_some(value));
            let low = value.to_le_bytes();
            prop_assert_eq!(mmio.write_u32(offset, u32::from_le_bytes([low[0], low[1], low[2], low[3]])).is_some(), fits(4));
            prop_assert_eq!(mmio.read_u16(offset).is_some(), fits(2));
            if fits(4) {
                prop_assert_eq!(mmio.read_u8(offset + 3), Some(low[3]));
            }
            prop_assert_eq!(mmio.write_u8(offset, 1).is_some(), offset < LEN);
        }
    }

    #[test]
    fn a_map_goes_only_the_way_it_was_made_for() {
        let read = mmio(Access::READ);
        assert_eq!((read.read_u32(0), read.write_u32(0, 1)), (Some(0), None));
        let write = mmio(Access::WRITE);
        assert_eq!((write.read_u32(0), write.write_u32(0, 1)), (None, Some(())));
        assert!(Window::<_, 8>::new(&read, 0).is_none());
    }

    #[test]
    fn a_window_begins_where_it_was_put() {
        const LOW: Reg<u32, ReadWrite, 0> = Reg::new();
        const HIGH: Reg<u64, ReadWrite, 8> = Reg::new();
        let mmio = mmio(Access::READ | Access::WRITE);
        let window = Window::<_, 16>::new(&mmio, 64).unwrap();
        window.write(LOW, 0x1234_5678);
        window.write(HIGH, u64::MAX - 1);
        assert_eq!(
            (mmio.read_u32(64), mmio.read_u64(72)),
            (Some(0x1234_5678), Some(u64::MAX - 1))
        );
        assert_eq!(window.read(LOW), 0x1234_5678);
        assert!(Window::<_, 16>::new(&mmio, LEN - 8).is_none());
        assert!(Window::<_, 16>::new(&mmio, 4).is_none());
        assert!(Window::<_, 16>::new(&mmio, usize::MAX - 7).is_none());
    }
}
