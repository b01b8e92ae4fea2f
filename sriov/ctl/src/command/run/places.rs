//! Which function goes into which slot of the guest.

use super::Given;
use crate::args::Place;
use crate::failure::Failure;
use pci::Bdf;
use std::collections::BTreeMap;

/// The functions of each slot, the first being slot 1; of none where a later slot is asked for. Those that are nowhere in particular each get the first
/// free slot, in the order in which they were named.
pub(super) fn arrange(functions: &[Given]) -> Result<Vec<Vec<Given>>, Failure> {
    let mut slots: BTreeMap<u8, BTreeMap<u8, Given>> = BTreeMap::new();
    for given in functions {
        let Some(place) = given.place else { continue };
        let slot = slots.entry(place.slot).or_default();
        if let Some(other) = slot.insert(place.function, *given) {
            return Err(both(other.bdf, given.bdf, place));
        }
    }
    for (slot, functions) in &slots {
        check(*slot, functions)?;
    }
    for given in functions.iter().filter(|given| given.place.is_none()) {
        let free = (1..=Place::LAST_SLOT).find(|slot| !slots.contains_key(slot));
        let free = free.ok_or_else(|| {
            let failure = Failure::usage(format!("a guest has {} slots, and needs more", Place::LAST_SLOT));
            failure.fix("put several functions into one: --device SELECTOR,slot=1.0 --device SELECTOR,slot=1.1")
        })?;
        slots.insert(free, BTreeMap::from([(0, *given)]));
    }
    let last = slots.last_key_value().map_or(0, |(slot, _)| *slot);
    let mut functions = |slot| slots.remove(&slot).unwrap_or_default().into_values().collect();
    Ok((1..=last).map(&mut functions).collect())
}

/// Guests look no further where function 0 is missing.
fn check(slot: u8, functions: &BTreeMap<u8, Given>) -> Result<(), Failure> {
    let missing = (0..).zip(functions).find(|(number, (found, _))| number != *found);
    match missing {
        None => Ok(()),
        Some((number, (found, given))) => {
            let failure = Failure::usage(format!(
                "slot {slot} is to have function {found}, and has no function {number}"
            ));
            let failure = failure.device(given.bdf);
            Err(failure.fix("number the functions of a slot from 0 on, without gaps"))
        }
    }
}

fn both(one: Bdf, other: Bdf, place: Place) -> Failure {
    Failure::usage(format!(
        "{one} and {other} are both to be {place}: function {} of slot {}",
        place.function, place.slot
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pci::GroupId;

    fn given(number: u8, place: Option<&str>) -> Given {
        Given {
            bdf: format!("0000:01:{number:02x}.0").parse().unwrap(),
            group: GroupId(number.into()),
            node: None,
            numa: None,
            place: place.map(|place| place.parse().unwrap()),
            token: None,
        }
    }

    /// Device numbers of the functions of each slot.
    fn arranged(functions: &[Given]) -> Result<Vec<Vec<u8>>, String> {
        let slots = arrange(functions).map_err(|failure| failure.message.clone())?;
        let numbers = |slot: &Vec<Given>| slot.iter().map(|given| given.bdf.routing_id.device()).collect();
        Ok(slots.iter().map(numbers).collect())
    }

    #[test]
    fn each_function_has_a_slot_of_its_own_unless_it_is_said_otherwise() {
        assert_eq!(arranged(&[]), Ok(vec![]));
        assert_eq!(arranged(&[given(5, None), given(3, None)]), Ok(vec![vec![5], vec![3]]));
        let several = [
            given(1, Some("2.1")),
            given(2, None),
            given(3, Some("2.0")),
            given(4, None),
        ];
        assert_eq!(arranged(&several), Ok(vec![vec![2], vec![3, 1], vec![4]]));
        assert_eq!(arranged(&[given(1, Some("3"))]), Ok(vec![vec![], vec![], vec![1]]));
    }

    #[test]
    fn a_slot_without_function_0_and_a_place_for_two_are_refused() {
        let message = |functions: &[Given]| arranged(functions).unwrap_err();
        assert_eq!(
            message(&[given(1, Some("1.1"))]),
            "slot 1 is to have function 1, and has no function 0"
        );
        assert_eq!(
            message(&[given(1, Some("4.0")), given(2, Some("4.2"))]),
            "slot 4 is to have function 2, and has no function 1"
        );
        assert_eq!(
            message(&[given(1, Some("1.0")), given(2, Some("1"))]),
            "0000:01:01.0 and 0000:01:02.0 are both to be 1.0: function 0 of slot 1"
        );
        let all: Vec<Given> = (0..32).map(|number| given(number % 32, None)).collect();
        assert_eq!(arranged(&all[..31]).unwrap().len(), 31);
        assert!(message(&all).contains("31 slots"));
    }
}
