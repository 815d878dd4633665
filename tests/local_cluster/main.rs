//! Whether the local cluster behaves as Mesos does: facts of the protocol, checked on both. I/O.
//!
//! The client here is a bare one of its own, so that an error in the operator's client is not
//! mirrored. Where the two clusters differ, the local one is wrong.

#[path = "../support/mod.rs"]
mod support;

mod draining;
mod faults;
mod losses;
mod maintenance;
mod protocol;
mod rig;
mod scheduler;
mod simulated;
mod tasks;

/// Makes a test of each fact for each kind of cluster.
macro_rules! facts {
    ($($module:ident: $($name:ident),+ $(,)?;)+) => {
        mod local {
            $($(
                #[tokio::test]
                async fn $name() {
                    super::$module::$name(crate::rig::Rig::local()).await;
                }
            )+)+
        }
        mod mesos {
            $($(
                #[tokio::test]
                async fn $name() {
                    super::$module::$name(crate::rig::Rig::mesos().await).await;
                }
            )+)+
        }
    };
}

facts! {
    protocol:
        a_subscription_starts_with_its_id_a_heartbeat_and_offers,
        a_second_subscription_ends_the_first_one,
        a_removed_framework_is_refused_and_an_unknown_one_is_not,
        wrong_descriptions_are_told_by_an_error_event,
        wrong_calls_are_refused_with_the_masters_words,
        calls_of_an_ended_subscription_are_refused,
        a_declined_offer_stays_away_until_revive,
        suppressed_roles_get_no_offers_until_revive,
        a_filter_ends_when_there_is_more_to_offer_than_was_refused,
        a_filter_outlives_a_subscription_but_not_an_outage,
        two_frameworks_share_what_there_is,
        a_framework_that_stays_away_too_long_is_removed_with_its_tasks;
    tasks:
        a_task_starts_runs_and_is_killed,
        an_update_waits_for_the_acknowledgement_of_the_one_before,
        an_unacknowledged_update_comes_again_to_a_new_subscription,
        ends_of_processes_are_told_apart,
        a_task_that_ignores_sigterm_is_killed_after_its_grace,
        many_tasks_are_launched_over_merged_offers_of_an_agent,
        a_used_offer_drops_its_tasks,
        a_wrong_task_is_an_error,
        a_used_task_id_is_an_error_and_its_task_runs_on,
        killing_what_the_master_does_not_know_answers_like_reconcile,
        reconcile_answers_what_the_master_knows,
        tasks_that_the_agent_cannot_run_are_refused_by_it,
        teardown_kills_the_tasks,
        the_operator_api_tells_of_agents_frameworks_and_tasks;
    losses:
        a_dead_machine_is_unreachable_and_its_tasks_have_failed_when_it_is_back,
        a_dead_agents_tasks_run_on_and_come_back,
        a_machine_that_hangs_goes_on_where_it_was,
        what_is_sent_to_a_machine_that_hangs_for_a_moment_arrives,
        a_new_master_learns_of_tasks_from_the_agents;
    draining:
        a_deactivated_agent_is_not_offered_until_it_is_reactivated,
        a_drained_agents_tasks_are_killed_and_it_is_drained_once_that_is_acknowledged,
        a_drain_leaves_each_task_its_grace_as_far_as_it_allows,
        an_agent_drained_for_good_is_gone_with_its_tasks,
        an_agent_that_was_away_drains_when_it_is_back,
        a_new_master_knows_what_was_deactivated_drained_and_scheduled;
    maintenance:
        maintenance_ahead_is_told_by_offers_and_inverse_offers,
        every_new_schedule_takes_all_offers_back,
        an_answered_inverse_offer_comes_again_when_its_filter_ends,
        a_refused_inverse_offer_comes_again_on_revive_and_with_a_new_subscription,
        an_inverse_offer_due_while_its_agent_is_deactivated_is_lost_until_the_next_schedule,
        a_suppressed_framework_is_asked_to_leave_too,
        a_wrong_schedule_is_refused_with_the_masters_words;
}
