use std::fmt::Debug;

use proptest::prelude::*;
use serde::de::DeserializeOwned;

use super::*;

/// The API server's own answers to the same request: protobuf, JSON.
const SERVICES: (&[u8], &[u8]) =
    (include_bytes!("testdata/services.protobuf"), include_bytes!("testdata/services.json"));
const SLICES: (&[u8], &[u8]) =
    (include_bytes!("testdata/slices.protobuf"), include_bytes!("testdata/slices.json"));
const PAGE: (&[u8], &[u8]) = (include_bytes!("testdata/page.protobuf"), include_bytes!("testdata/page.json"));

fn list<K: InProtobuf>(document: impl Into<Bytes>, managed_fields: bool) -> Result<Page<K>, BoxError> {
    cut(document.into(), K::LIST)?.each(|object| K::read(object, managed_fields))
}

fn same<K>((protobuf, json): (&'static [u8], &[u8]), without: fn(&mut K))
where
    K: InProtobuf + Clone + Debug + PartialEq + DeserializeOwned,
{
    for managed_fields in [true, false] {
        let read = list::<K>(protobuf, managed_fields).unwrap();
        let mut wanted: Page<K> = serde_json::from_slice::<ObjectList<K>>(json).unwrap().into();
        if !managed_fields {
            wanted.objects.iter_mut().for_each(without);
        }
        assert_eq!(read, wanted);
        assert!(!read.objects.is_empty() && read.version.is_some());
    }
}

#[test]
fn both_forms_of_an_answer_say_the_same() {
    let without: fn(&mut Service) = |service| service.metadata.managed_fields = None;
    same::<Service>(SERVICES, without);
    same::<Service>(PAGE, without);
    same::<EndpointSlice>(SLICES, |slice| slice.metadata.managed_fields = None);
}

#[test]
fn a_page_names_the_next_one() {
    let read = |document: &'static [u8]| list::<Service>(document, false).unwrap();
    assert!(read(PAGE.0).more.is_some());
    assert_eq!(read(SERVICES.0).more, None);
}

#[test]
fn what_is_no_list_of_the_kind_is_told() {
    for (document, told) in [
        (&b"{}"[..], "it does not begin with \"k8s\\0\""),
        (b"k8s\0", "it is a \"\""),
        (SLICES.0, "it is a \"EndpointSliceList\""),
    ] {
        assert_eq!(list::<Service>(document, false).unwrap_err().to_string(), told);
    }
}

proptest! {
    #[test]
    fn damaged_answers_are_errors_or_lists(at in 0..4800_usize, byte: u8, cut in 0..4800_usize, managed: bool) {
        for document in [SERVICES.0, SLICES.0, PAGE.0] {
            let mut damaged = document.to_vec();
            let at = at % damaged.len();
            damaged[at] = byte;
            damaged.truncate(cut.max(MAGIC.len()));
            let damaged = Bytes::from(damaged);
            let _ = list::<Service>(damaged.clone(), managed);
            let _ = list::<EndpointSlice>(damaged, managed);
        }
    }
}
