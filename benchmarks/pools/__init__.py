"""Pools of replicas: where sessions go, and what becomes of requests when a replica fails."""
