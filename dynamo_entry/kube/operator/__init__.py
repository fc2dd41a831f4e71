"""The operator: DynamoCheckpoints are reconciled, a pure decision (``lifecycle``) at a time."""
