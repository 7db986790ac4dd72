//! Remedies for a contract's refusal of a charge or update.

use crate::chain::ChainError;

const UNAUTHORIZED: &str = "0x118cdaa7";

/// The remedy for a contract's refusal; what was not sent says that itself.
pub(crate) fn hint(called: &str, fault: &ChainError) -> Option<String> {
    let ChainError::Reverted(why) = fault else {
        return None;
    };
    let is = |words: &str| why.contains(words);
    Some(if is("No bandwidth") {
        format!(
            "no upload units are left: buy some by `pxfs upgrade {called} --uploads N`, or take a larger package"
        )
    } else if is("Storage full") {
        format!("its size is used up: `pxfs upgrade {called} --package N`")
    } else if is("Ownable") || is(UNAUTHORIZED) {
        "the contract lets its own owner alone report usage".to_owned()
    } else if is("!owner") {
        "it is not this wallet's".to_owned()
    } else if why.starts_with("reverted") {
        format!(
            "why is not known here: look whether `pxfs tokens` has token {called} still, or ask the contract's owner"
        )
    } else {
        return None;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_to_buy_what_does_not_help() {
        let told = |why: &str| hint("7", &ChainError::Reverted(why.to_owned()));
        let sells = |why: &str| told(why).is_some_and(|hint| hint.contains("pxfs upgrade"));
        assert!(sells("reverted: No bandwidth") && sells("reverted: Storage full"));
        for why in [
            "reverted: Ownable: caller is not the owner",
            "reverted with 0x118cdaa7000000000000000000000000f39fd6e51aad88f6f4ce6ab8827279cfffb92266",
            "reverted: !owner",
            "reverted without a reason",
        ] {
            assert!(!sells(why) && told(why).is_some(), "{why}");
            // An empty update unlocks: no lock refuses it.
            assert!(
                told(why).is_some_and(|hint| !hint.contains("unlock")),
                "{why}"
            );
        }
        for why in [
            "not sent: its gas may cost 3, and --max-fee allows 1: try later, or allow more",
            "insufficient funds: 0x1 has 0 and needs 1: 1 is missing",
        ] {
            assert_eq!(told(why), None);
        }
        assert_eq!(hint("7", &ChainError::Transient("away".to_owned())), None);
    }
}
