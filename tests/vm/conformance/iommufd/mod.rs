//! Beside `tools/testing/selftests/iommu/iommufd.c`: iommufd's objects, most of them through the kernel's mock devices.
//!
//! What the kernel asserts of malformed commands and of numbers that name no object cannot be asked for here: the library fills in the
//! sizes, and an object is named by holding it. Such cases are skipped where nothing else is left of them.

mod access;
mod area;
mod bench;
mod change_process;
mod compat;
mod dirty;
mod fail_nth;
mod ioas;
mod mock_domain;
mod nested;
mod pasid;
mod plain;
mod viommu;

use crate::harness::{Case, File};
use crate::stage::Stage;
use anyhow::Result;
use lab::Machine;
use lab::case::Outcome;

pub(crate) use change_process::helper;

/// A test of a variant of a fixture.
type Test<V> = (&'static str, fn(&V) -> Result<Outcome>);

/// Cases of one fixture that has variants.
fn add<V: Copy + 'static>(
    cases: &mut Vec<Case>,
    fixture: &str,
    variants: &[V],
    name: fn(&V) -> &'static str,
    tests: &[Test<V>],
) {
    for variant in variants {
        for (test, run) in tests {
            let (variant, run) = (*variant, *run);
            let name = format!("conf_iommufd_{fixture}.{}.{test}", name(&variant));
            cases.push(Case::new(name, move |_| run(&variant)));
        }
    }
}

/// The files of this suite.
pub(crate) fn files() -> Vec<File> {
    let file = |name, cases| File {
        name,
        machine: Machine::default(),
        stage: Stage::Plain,
        cases,
        limit_s: 240,
        short: &[],
    };
    vec![file("iommufd", cases()), file("iommufd_fail_nth", fail_nth::cases())]
}

fn cases() -> Vec<Case> {
    let mut cases = plain::cases();
    let variants = &change_process::VARIANTS;
    add(
        &mut cases,
        "change_process",
        variants,
        |variant| variant.name,
        &[("basic", change_process::basic)],
    );
    add(&mut cases, "ioas", &bench::VARIANTS, |variant| variant.name, IOAS);
    add(
        &mut cases,
        "mock_domain",
        &mock_domain::VARIANTS,
        |variant| variant.name,
        MOCK_DOMAIN,
    );
    add(
        &mut cases,
        "dirty_tracking",
        &dirty::VARIANTS,
        |variant| variant.name,
        DIRTY_TRACKING,
    );
    add(
        &mut cases,
        "vfio_compat_mock_domain",
        &compat::VARIANTS,
        |variant| variant.name,
        COMPAT,
    );
    add_named(&mut cases, "viommu", &viommu::VARIANTS, VIOMMU);
    add_named(
        &mut cases,
        "device_pasid",
        &pasid::VARIANTS,
        &[("pasid_attach", pasid::pasid_attach)],
    );
    cases
}

/// The same where a variant is no more than its name.
fn add_named(cases: &mut Vec<Case>, fixture: &str, variants: &[&'static str], tests: &[Test<str>]) {
    for variant in variants {
        for (test, run) in tests {
            let (variant, run) = (*variant, *run);
            let name = format!("conf_iommufd_{fixture}.{variant}.{test}");
            cases.push(Case::new(name, move |_| run(variant)));
        }
    }
}

const IOAS: &[Test<bench::Variant>] = &[
    ("ioas_auto_destroy", ioas::ioas_auto_destroy),
    ("ioas_destroy", ioas::ioas_destroy),
    ("alloc_hwpt_nested", nested::alloc_hwpt_nested),
    ("hwpt_attach", ioas::hwpt_attach),
    ("ioas_area_destroy", ioas::ioas_area_destroy),
    ("ioas_area_auto_destroy", ioas::ioas_area_auto_destroy),
    ("get_hw_info", ioas::get_hw_info),
    ("area", area::area),
    ("unmap_fully_contained_areas", area::unmap_fully_contained_areas),
    ("area_auto_iova", area::area_auto_iova),
    ("reserved_overflow", area::reserved_overflow),
    ("area_allowed", area::area_allowed),
    ("copy_area", area::copy_area),
    ("iova_ranges", ioas::iova_ranges),
    ("access_domain_destory", access::access_domain_destory),
    ("access_pin", access::access_pin),
    ("access_pin_unmap", access::access_pin_unmap),
    ("access_rw", access::access_rw),
    ("access_rw_unaligned", access::access_rw_unaligned),
    ("fork_gone", change_process::fork_gone),
    ("fork_present", change_process::fork_present),
    ("ioas_option_huge_pages", ioas::ioas_option_huge_pages),
    ("ioas_iova_alloc", ioas::ioas_iova_alloc),
    ("ioas_align_change", ioas::ioas_align_change),
    ("copy_sweep", area::copy_sweep),
    ("dmabuf_simple", area::dmabuf_simple),
    ("dmabuf_revoke", area::dmabuf_revoke),
];

const MOCK_DOMAIN: &[Test<mock_domain::Variant>] = &[
    ("basic", mock_domain::basic),
    ("ro_unshare", mock_domain::ro_unshare),
    ("all_aligns", mock_domain::all_aligns),
    ("all_aligns_copy", mock_domain::all_aligns_copy),
    ("user_copy", mock_domain::user_copy),
    ("replace", mock_domain::replace),
    ("alloc_hwpt", mock_domain::alloc_hwpt),
];

const DIRTY_TRACKING: &[Test<dirty::Variant>] = &[
    ("enforce_dirty", dirty::enforce_dirty),
    ("set_dirty_tracking", dirty::set_dirty_tracking),
    ("pasid_set_dirty_tracking", dirty::pasid_set_dirty_tracking),
    ("device_dirty_capability", dirty::device_dirty_capability),
    ("get_dirty_bitmap", dirty::get_dirty_bitmap),
    ("get_dirty_bitmap_no_clear", dirty::get_dirty_bitmap_no_clear),
];

const COMPAT: &[Test<compat::Variant>] = &[
    ("simple_close", compat::simple_close),
    ("option_huge_pages", compat::option_huge_pages),
    ("get_info", compat::get_info),
    ("map", compat::map),
    ("huge_map", compat::huge_map),
];

const VIOMMU: &[Test<str>] = &[
    ("viommu_auto_destroy", viommu::viommu_auto_destroy),
    ("viommu_negative_tests", viommu::viommu_negative_tests),
    ("viommu_alloc_nested_iopf", viommu::viommu_alloc_nested_iopf),
    ("viommu_alloc_with_data", viommu::viommu_alloc_with_data),
    ("vdevice_alloc", viommu::vdevice_alloc),
    ("vdevice_cache", viommu::vdevice_cache),
    ("hw_queue", viommu::hw_queue),
    ("vdevice_tombstone", viommu::vdevice_tombstone),
];

/// What the kernel's suite skips for want of a virtual IOMMU, is skipped here too.
fn no_viommu() -> Result<Outcome> {
    Ok(Outcome::Skipped(
        "it needs a virtual IOMMU; the kernel's own suite skips it in this variant".to_owned(),
    ))
}
