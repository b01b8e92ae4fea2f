//! Tests of the tool in the lab, against a real kernel and emulated devices.
//!
//! Every case finds its devices by what they are, and leaves the machine as it was: the harness compares.
#![forbid(unsafe_code)]

mod assign;
mod background;
mod crash;
mod disk;
mod dma;
mod drivers;
mod guest;
mod lifecycle;
mod memory_buffer;
mod monitor;
mod refusals;
mod removal;
mod token;
mod topology;
mod vf;
mod vf_removal;
mod virtio;

use lab::case::{Case, Outcome};
use lab::{Device, Iommu, Machine};
use std::process::ExitCode;
use system_tests::machine;

fn main() -> ExitCode {
    let machine = |iommu, devices: &[Device]| Machine {
        iommu,
        devices: devices.to_vec(),
        ..Machine::default()
    };
    let mut cases = vec![
        Case::new("topology_knows_every_function", topology::knows_every_function),
        Case::new("topology_says_who_has_ats_enabled", topology::says_who_has_ats_enabled),
        Case::new("topology_agrees_with_lspci", topology::agrees_with_lspci),
        Case::new(
            "list_json_is_valid_and_complete",
            topology::list_json_is_valid_and_complete,
        ),
        Case::new("a_plan_changes_nothing", lifecycle::a_plan_changes_nothing),
        Case::new(
            "nic_vfs_are_created_on_vfio_pci_and_deleted",
            lifecycle::nic_vfs_for_vfio,
        ),
        Case::new(
            "nvme_vfs_are_created_on_vfio_pci_and_deleted",
            lifecycle::nvme_vfs_for_vfio,
        ),
        Case::new("nic_vfs_are_created_on_their_native_driver", lifecycle::nic_vfs_native),
        Case::new("nic_vfs_are_bound_by_name", lifecycle::nic_vfs_by_name),
        Case::new("a_second_create_has_nothing_to_do", lifecycle::create_twice),
        Case::new("a_function_is_bound_and_released", lifecycle::bind_and_release),
        Case::new("a_vf_is_released_to_its_native_driver", lifecycle::release_vf),
        Case::new("undo_takes_a_creation_back", lifecycle::undo_creation),
        Case::new("undo_brings_deleted_vfs_back", lifecycle::undo_deletion),
        Case::new("log_lists_what_was_done", lifecycle::log_lists_operations),
        Case::new("two_at_once_take_turns", lifecycle::two_at_once),
        Case::new("a_held_vf_is_never_destroyed", refusals::held_vf),
        Case::new(
            "a_vf_held_out_of_sight_is_never_destroyed",
            refusals::vf_held_out_of_sight,
        ),
        Case::new("a_mounted_nvme_is_refused", refusals::mounted_nvme),
        Case::new("an_nvme_with_swap_is_refused", refusals::swap_on_nvme),
        Case::new("a_nic_with_a_route_is_refused", refusals::nic_with_route),
        Case::new("a_pf_with_vfs_is_refused", refusals::pf_with_vfs),
        Case::new("more_vfs_than_total_are_refused", refusals::too_many_vfs),
        Case::new("another_count_needs_a_delete_first", refusals::another_count),
        Case::new("a_pf_without_a_driver_is_refused", refusals::no_driver),
        Case::new(
            "an_unknown_driver_is_refused_with_similar_names",
            refusals::unknown_driver,
        ),
        Case::new("an_unknown_selector_matches_nothing", refusals::unknown_selector),
        Case::new("without_root_it_reads_and_refuses_to_change", refusals::not_root),
        Case::new("a_device_opens_in_every_way", dma::every_way),
        Case::new("a_device_moves_memory_where_it_may", dma::edu),
        Case::new("a_device_reaches_another_ones_registers", dma::peer),
        Case::new("demand_paging_keeps_its_budget", dma::demand),
        Case::new("a_device_state_moves_to_another", dma::migrate),
        Case::new("a_device_is_driven_by_the_crates_of_rust_vmm", dma::rust_vmm),
        Case {
            limit_s: 240,
            ..Case::new("a_hung_sysfs_file_ends_in_a_deadline", refusals::hung_file)
        },
        Case {
            machine: machine(Iommu::None, &[Device::Igb]),
            ..Case::new("without_an_iommu_vfio_is_refused", refusals::no_iommu)
        },
        Case {
            machine: machine(Iommu::Virtio, &[Device::Igb, Device::Nvme]),
            ..Case::new("virtio_iommu_serves_vfs", lifecycle::nic_vfs_for_vfio)
        },
        Case {
            machine: machine(Iommu::IntelScalable, &[Device::SwitchIgb, Device::VirtioNet]),
            ..Case::new(
                "a_switch_and_scalable_mode_are_understood",
                topology::switch_and_scalable_mode,
            )
        },
        Case {
            limit_s: 600,
            ..Case::new("killed_at_every_step_it_is_undone", crash::killed_at_every_step)
        },
        Case {
            limit_s: 240,
            ..Case::new("killed_while_undoing_it_is_undone", crash::killed_while_undoing)
        },
        Case {
            limit_s: 420,
            ..Case::new("a_guest_drives_a_vf", guest::drives_a_vf)
        },
        Case {
            limit_s: 420,
            ..Case::new("a_guest_gets_the_interrupts_of_an_edu", guest::drives_an_edu)
        },
        Case {
            limit_s: 420,
            ..Case::new(
                "functions_of_a_guest_reach_one_another",
                guest::functions_reach_one_another,
            )
        },
        Case {
            limit_s: 420,
            ..Case::new("a_guest_resets_its_slots", guest::resets_its_slots)
        },
        Case {
            limit_s: 420,
            ..Case::new("a_guest_that_is_asked_to_end_ends_in_order", guest::ends_in_order)
        },
        Case {
            limit_s: 180,
            ..Case::new("a_guest_ends_with_a_killed_run", guest::ends_with_a_killed_run)
        },
        Case {
            limit_s: 240,
            ..Case::new(
                "machines_of_a_few_instructions_do_as_they_should",
                guest::few_instructions,
            )
        },
    ];
    cases.extend(assign::cases());
    cases.extend(disk::cases());
    cases.extend(drivers::cases());
    cases.extend(memory_buffer::cases());
    cases.extend(removal::cases());
    cases.extend(token::cases());
    cases.extend(vf::cases());
    cases.extend(vf_removal::cases());
    cases.extend(virtio::cases());
    lab::case::main(&cases, machine::leaves_no_trace)
}

/// A case of the default kind that holds.
const PASSED: anyhow::Result<Outcome> = Ok(Outcome::Passed);

/// What `LAB_TIMES` says: how often, or how many times as much, for cases that can do more of the same.
fn times() -> usize {
    let asked = std::env::var("LAB_TIMES").ok().and_then(|times| times.parse().ok());
    asked.map_or(1, |asked: usize| asked.clamp(1, 1000))
}
