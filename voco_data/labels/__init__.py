"""Injury labels of patients, and splits by patient."""
