"""The operator: reconciles DynamoCheckpoints by one pure decision (``lifecycle``) at a time."""
