//! An address of Ethernet on the command line.

use drivers::igbvf::MacAddress;

/// Of six bytes in hexadecimal, such as 02:00:00:00:00:01.
pub(crate) fn mac(text: &str) -> Result<MacAddress, String> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes
        .map(MacAddress)
        .ok_or_else(|| "six bytes with colons between them".to_owned())
}
