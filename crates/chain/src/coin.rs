//! Known chains: their coin's name, and how much of it one transaction may cost without consent.
//!
//! Invariant: the limit bounds what a lying server can have spent. It covers the dearest call of a
//! token contract (a mint: 5 million gas) at several times the usual price, and a few dollars at
//! most. `--max-fee` replaces it.

use alloy::primitives::{B256, U256};

/// A chain's own coin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coin {
    /// EIP-155 id of the chain.
    pub chain_id: u64,
    /// Its ticker.
    pub symbol: &'static str,
    /// The most for one transaction without consent, in thousandths of a coin.
    milli: u64,
    /// URL of a transaction, without its hash.
    explorer: &'static str,
}

/// The limit on unknown chains.
const UNKNOWN: u64 = 100;
const MILLI: U256 = U256::from_limbs([1_000_000_000_000_000, 0, 0, 0]);

const fn coin(chain_id: u64, symbol: &'static str, milli: u64, explorer: &'static str) -> Coin {
    Coin {
        chain_id,
        symbol,
        milli,
        explorer,
    }
}

const COINS: [Coin; 10] = [
    coin(1, "ETH", 20, "https://etherscan.io/tx/"),
    coin(100, "xDAI", 500, "https://gnosisscan.io/tx/"),
    coin(137, "POL", 5_000, "https://polygonscan.com/tx/"),
    coin(146, "S", 5_000, "https://sonicscan.org/tx/"),
    coin(250, "FTM", 5_000, "https://ftmscan.com/tx/"),
    coin(
        23_294,
        "ROSE",
        20_000,
        "https://explorer.oasis.io/mainnet/sapphire/tx/",
    ),
    // Coins of test networks are worthless.
    coin(
        10_200,
        "xDAI",
        5_000,
        "https://gnosis-chiado.blockscout.com/tx/",
    ),
    coin(80_002, "POL", 5_000, "https://amoy.polygonscan.com/tx/"),
    coin(57_054, "S", 5_000, "https://testnet.sonicscan.org/tx/"),
    coin(
        23_295,
        "TEST",
        20_000,
        "https://explorer.oasis.io/testnet/sapphire/tx/",
    ),
];

/// `None` if the chain is unknown.
#[must_use]
pub fn of(chain_id: u64) -> Option<&'static Coin> {
    COINS.iter().find(|coin| coin.chain_id == chain_id)
}

/// The most that one transaction may cost without consent, wei.
#[must_use]
pub fn unseen_max(chain_id: u64) -> U256 {
    U256::from(of(chain_id).map_or(UNKNOWN, |coin| coin.milli)) * MILLI
}

/// `wei` for people, rounded up to six significant digits: `0.05 POL`.
#[must_use]
pub fn amount(chain_id: u64, wei: U256) -> String {
    let symbol = of(chain_id).map_or("coins", |coin| coin.symbol);
    let rest = wei.to_string().len().saturating_sub(6);
    let unit = U256::from(10).pow(U256::from(rest));
    let shown = wei.div_ceil(unit).saturating_mul(unit);
    let padded = format!("{shown:0>19}");
    let (whole, part) = padded.split_at(padded.len().saturating_sub(18));
    match part.trim_end_matches('0') {
        "" => format!("{whole} {symbol}"),
        part => format!("{whole}.{part} {symbol}"),
    }
}

/// Its page in the chain's explorer, if known.
#[must_use]
pub fn link(chain_id: u64, transaction: B256) -> Option<String> {
    of(chain_id).map(|coin| format!("{}{transaction}", coin.explorer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_can_be_read_and_is_never_shown_too_low() {
        for (chain, wei, shown) in [
            (1337, "0", "0 coins"),
            (1337, "1", "0.000000000000000001 coins"),
            (1337, "50000000000000000", "0.05 coins"),
            (137, "12000000000000000000", "12 POL"),
            (100, "123456789012345678", "0.123457 xDAI"),
            (146, "418100000000000001", "0.418101 S"),
            (1337, "123456789012345678901234567890", "123457000000 coins"),
        ] {
            assert_eq!(amount(chain, wei.parse().unwrap()), shown);
        }
    }

    /// With the spare added to an estimate, at twice the base fee.
    #[test]
    fn minting_and_charging_fit_the_gas_limit_at_usual_prices() {
        let gwei = 1_000_000_000_u64;
        let (mint, charge) = (3_819_098 * 5 / 4, 912_000 * 5 / 4);
        for (chain, usual) in [(100, 20), (137, 200), (146, 55), (250, 200), (23_294, 100)] {
            let cost = |gas: u64, price: u64| U256::from(gas) * U256::from(price * 2 * gwei);
            assert!(cost(mint, usual) < unseen_max(chain), "a mint on {chain}");
            let dear = cost(charge, usual * 4);
            assert!(dear < unseen_max(chain), "a charge on {chain} in a rush");
        }
        assert_eq!(unseen_max(31_337), U256::from(10).pow(U256::from(17)));
    }
}
