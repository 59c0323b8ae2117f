//! A3: the rules of the Xiaomi MiMo open platform, under the preset `xiaomi-mimo`.

use super::backend::{money, text};
use super::world::{PASSES, World};

async fn mimo() -> World {
    World::under("default").await
}

#[tokio::test]
async fn a3_01_a_recharge_is_spendable_at_once_and_adds_up() {
    let world = mimo().await;
    world.check_now("flat", "INSUFFICIENT_BALANCE").await;
    let first = world.order("o-1", "2").await.unwrap();
    world.check_now("flat", PASSES).await;
    assert_eq!(text(&first.account.unwrap().cumulative_recharge), "2.00");
    world.grant("5").await;
    world.order("o-2", "3").await.unwrap();
    let account = world.a().await;
    assert_eq!(text(&account.cumulative_recharge), "5.00", "no gift in it");
    assert_eq!(text(&account.balance), "9.00");
}
