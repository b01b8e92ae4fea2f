//! Moves the state of one device to another of its kind: `migrate /dev/vfio/devices/vfio0 /dev/vfio/devices/vfio1`.
//! While the first still runs, what is known of its state is copied; then it is stopped, and the rest follows.
#![expect(clippy::print_stdout, reason = "an example's output")]

use std::error::Error;
use vfio_core::iommufd::Iommufd;
use vfio_core::migration::{DataStream, Migration, MigrationFlags, MigrationState, StreamRead};
use vfio_core::{BoundDevice, CdevFile, DirtyBitmap, Feature, Iova, IovaRange, System};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let (from, to) = arguments.next().zip(arguments.next()).ok_or("usage: migrate FROM TO")?;
    let system = System::host();
    let iommufd = Iommufd::open(&system)?;
    let from = CdevFile::open(&system, from)?.bind(&iommufd, None)?;
    let to = CdevFile::open(&system, to)?.bind(&iommufd, None)?;
    for (feature, access) in from.features()?.iter() {
        println!("{feature}: {access:?}");
    }
    log_dma(&from)?;
    let (source, target) = (migratable(&from)?, migratable(&to)?);

    let mut state = Vec::new();
    let mut stream = None;
    if source.flags().contains(MigrationFlags::PRE_COPY) {
        if from.features()?.contains(Feature::MIG_PRECOPY_INFO_V2) {
            source.enable_precopy_info_v2()?;
        }
        let transition = source.set_state(MigrationState::PreCopy)?;
        let data = transition.stream.ok_or("pre-copy without a stream")?;
        println!("{:?}: {:?}", transition.state, data.precopy_info()?);
        read_all(&data, &mut state)?;
        println!("{} bytes while it runs, {:?}", state.len(), data.precopy_info()?);
        stream = Some(data);
    }
    println!("about {} bytes to come", source.data_size()?);
    let transition = source.set_state(MigrationState::StopCopy)?;
    // The session goes on if there was one.
    let data = stream.or(transition.stream).ok_or("stop-and-copy without a stream")?;
    read_all(&data, &mut state)?;
    println!("{:?}: {} bytes", source.state()?, state.len());
    if source.set_state(MigrationState::PreCopy).is_ok() {
        return Err("no way leads from stop-and-copy to pre-copy".into());
    }

    let transition = target.set_state(MigrationState::Resuming)?;
    let data = transition.stream.ok_or("resuming without a stream")?;
    let mut rest = state.as_slice();
    while !rest.is_empty() {
        let taken = data.write(rest)?;
        rest = rest.get(taken..).ok_or("more was taken than was there")?;
    }
    let transition = target.set_state(MigrationState::Running)?;
    source.set_state(MigrationState::Stop)?;
    println!("{:?} there, {:?} here", transition.state, source.state()?);
    Ok(())
}

fn migratable(device: &BoundDevice) -> Outcome<Migration> {
    let migration = device.migration()?.ok_or("the device cannot be migrated")?;
    println!("{:?}, {:?}", migration.flags(), migration.state()?);
    Ok(migration)
}

/// Reads until there is no more, for now or for good.
fn read_all(stream: &DataStream, state: &mut Vec<u8>) -> Outcome<()> {
    let mut buffer = vec![0; 64 << 10];
    while let StreamRead::Data(len) = stream.read(&mut buffer)? {
        state.extend(buffer.iter().take(len));
    }
    Ok(())
}

/// Which pages the device writes, where it tells.
fn log_dma(device: &BoundDevice) -> Outcome<()> {
    if !device.features()?.contains(Feature::DMA_LOGGING_START) {
        return Ok(());
    }
    let range = IovaRange::new(Iova(0), 1 << 30).ok_or("no range")?;
    let log = device.dma_logging(4096, &[range])?;
    let mut dirty = DirtyBitmap::new(range, 4096)?;
    log.report(&mut dirty)?;
    println!("{} pages of {} bytes are dirty", dirty.count(), log.page_size());
    Ok(())
}
