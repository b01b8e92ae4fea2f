//! Policy over the whole machine in memory: iommufd and type1, devices that do DMA, and every call of the kernel failing in turn.

#[cfg(test)]
mod bench;
#[cfg(test)]
mod bounce;
#[cfg(test)]
mod demand;
#[cfg(test)]
mod dirty;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod group;
#[cfg(test)]
mod nested;
#[cfg(test)]
mod open;
#[cfg(test)]
mod space;
#[cfg(test)]
mod unmap;
