"""A stand-in for Dynamo's operator: each service of a DynamoGraphDeployment becomes a Deployment.

Labels, probes, environment and shared memory of the pods are those of ai-dynamo/dynamo's operator
(internal/dynamo/component_common.go, component_worker.go); the custom resource takes any spec.

    python -m dynamo --kubeconfig FILE
"""
