//! The name of a watched token.
//!
//! Invariant: it is an ed25519 key's name in its one form.

use std::str::FromStr;

use crate::names::key::public_key;
use crate::types::TokenRef;

/// A token and its owner's name for it: `TOKEN=k51…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedToken {
    /// The token.
    pub token: TokenRef,
    /// Its name.
    pub name: String,
}

impl FromStr for NamedToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((token, name)) = text.split_once('=') else {
            return Err(format!("`{text}`: give the token and its name, TOKEN=k51…"));
        };
        public_key(name).map_err(|fault| fault.to_string())?;
        Ok(Self {
            token: token.parse()?,
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::key::NameKey;

    #[test]
    fn a_name_that_nobody_can_own_is_refused_where_it_is_given() {
        let name = NameKey::from_seed(&[7; 32]).name();
        let read = |text: String| text.parse::<NamedToken>();
        for (token, text) in [("7", "7"), ("old-7", "old-7")] {
            let named = read(format!("{token}={name}")).unwrap();
            assert_eq!(
                (named.token.to_string().as_str(), &named.name),
                (text, &name)
            );
        }
        for wrong in [
            name.clone(),
            format!("x={name}"),
            format!("={name}"),
            "7=".to_owned(),
            format!("7={}", &name[1..]),
            format!("7={}", name.replace("k51", "k52")),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
