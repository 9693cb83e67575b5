"""Steered rollouts judged: metrics of every rollout, their table, and estimates with intervals beside controls."""
