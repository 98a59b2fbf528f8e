//! The same stories told by both servers: the embedded coordinator, and a member of Debian's etcd.
//!
//! Each story gets a server of its own. Between it and its clients there is a [`servers::Wire`] that a story can cut.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a story that cannot go on fails, and says what it measured"
)]

mod servers;
mod stories;

use servers::{EmbeddedServer, EtcdServer, Story, run};

/// One test per story and server.
macro_rules! stories {
    ($($module:ident: $($story:ident),+ $(,)?;)+) => {
        mod embedded {
            use super::*;
            $($(#[test] fn $story() { run(|| async { Story::new(EmbeddedServer::start()).await }, |story| Box::pin(stories::$module::$story(story))); })+)+
        }
        mod etcd {
            use super::*;
            $($(#[test] fn $story() { run(|| async { Story::new(EtcdServer::start().await).await }, |story| Box::pin(stories::$module::$story(story))); })+)+
        }
    };
}

stories! {
    keys:
        a_key_is_read_with_its_past,
        a_key_that_was_deleted_is_made_anew,
        a_list_has_every_key_of_the_prefix_and_no_other,
        any_bytes_are_a_value,
        each_write_is_one_revision,
        a_value_that_is_too_large_is_rejected,
        a_server_says_how_it_is;
    transactions:
        two_who_make_the_same_key_one_wins,
        many_who_count_by_compare_and_set_lose_nothing,
        every_comparison_compares_what_it_says,
        a_transaction_is_all_or_nothing,
        a_refused_transaction_does_its_other_branch,
        a_transaction_reads_what_it_has_written,
        a_transaction_that_contradicts_itself_is_rejected,
        a_transaction_that_is_too_long_is_rejected;
    leases:
        a_lease_that_is_not_renewed_takes_its_keys_along,
        a_lease_that_is_renewed_keeps_its_keys,
        a_lease_that_is_gone_is_not_renewed,
        a_lease_that_is_revoked_takes_its_keys_along_at_once,
        a_key_cannot_be_bound_to_a_lease_that_is_gone,
        a_key_that_is_put_without_its_lease_outlives_it,
        a_lease_says_what_it_has_left;
    watches:
        a_watch_sees_each_change_once_and_in_order,
        a_watch_begins_at_an_old_revision,
        a_watch_of_what_is_to_come_waits,
        a_watch_sees_no_other_keys,
        a_watch_goes_on_after_its_connection_was_cut,
        a_watch_goes_on_after_a_silence,
        a_watch_of_what_was_compacted_is_told_to_start_over;
    failures:
        what_cannot_be_sent_is_certainly_not_done,
        what_is_not_answered_may_have_been_done_and_can_be_found_out,
        what_may_have_been_done_is_settled_and_done_once,
        a_silent_server_holds_nobody_beyond_the_deadline,
        an_endpoint_that_is_dead_is_passed_over,
        a_lease_whose_answer_was_lost_is_granted_once;
}
