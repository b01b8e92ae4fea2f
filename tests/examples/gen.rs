use pci::{Fields, Names, Sysfs, Topology};
use std::time::Instant;
fn main() {
    let dir = std::env::args().nth(1).unwrap();
    if std::env::args().nth(2).is_some() {
        let t = Instant::now();
        system_tests::tree::Tree::of(&dir, &system_tests::tree::server(4096)).unwrap();
        eprintln!("generate {:?}", t.elapsed());
    }
    let sysfs = Sysfs::at(&dir);
    for _ in 0..20 {
        let t = Instant::now();
        let top = Topology::read_fields(
            &sysfs,
            Fields::ID | Fields::DRIVER | Fields::GROUP | Fields::SRIOV | Fields::NUMA,
        )
        .unwrap();
        print!("list {:?} ", t.elapsed());
        let t = Instant::now();
        let n = Names::read(&Sysfs::host());
        let mut c = 0;
        for f in top.functions() {
            c += n
                .device(*f.vendor.as_ref().unwrap(), *f.device.as_ref().unwrap())
                .map_or(0, str::len);
        }
        print!("names {:?} {c} ", t.elapsed());
        let t = Instant::now();
        if std::env::args().nth(2).is_none() {
            continue;
        };
        let _all = Topology::read(&sysfs).unwrap();
        eprintln!("all {:?}", t.elapsed());
    }
}
