"""The stand-ins without any of our own: the graph of the guide runs, cold."""

import engines
import guide
import images


def test_a_graph_runs_without_us(cluster, node, dynamo, namespace):
    """Two workers with Dynamo's labels and probes become ready and answer alike."""
    images.need(images.DYNAMO)
    (graph,) = guide.objects("2. Configure Your DGD")
    cluster.apply(graph, namespace=namespace)
    pods = engines.Pods(cluster, namespace, "my-llm", "VllmWorker")
    first, second = pods.ready(2)
    assert "dynamo.vllm: --model meta-llama/Llama-3-8B" in pods.log(first)
    answers = [engines.post(pod["status"]["podIP"], engines.QUESTION) for pod in (first, second)]
    assert answers[0] == answers[1]
    assert len(answers[0]["vector"]) == 384
    cluster.kubectl("delete", "dynamographdeployment", "my-llm", "-n", namespace)
