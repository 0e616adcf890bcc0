/** The words and signs of a circuit's page, for its help. */

export const WORDS: [string, string][] = [
  ["box", "a component: an attention head, an MLP, an embedding, or the logits; layer 0 is at the bottom"],
  ["shade of a box", "how many edges meet there at this size, next to the busiest component; an empty box has none"],
  ["grey box", "edges come in, but none goes out in its row: a head that shares the key or value of others, or a feature that writes to later layers only"],
  ["m4.f17, m4.n17", "a transcoder's feature, a neuron: in the row of layer 4, in its MLP's place; m4.f17>6 is what the feature writes to layer 6, a box of its own there, on which >17 stands where there is little room"],
  ["error, rest", "what the features leave of an MLP, and the neurons that are no boxes of their own"],
  ["line", "an edge, from what writes to what reads; its colour says what reads it, or which circuits have it"],
  ["width of a line", "the size of its score among the lines that are drawn; with nothing chosen, only the strongest are"],
  ["score", "what the method gave the edge; the edge's own panel says what that is, and in which unit"],
  ["rank", "the edge's place by score: so many edges have to be asked for until it is among them"],
  ["asked for, actual", "the slider asks for so many edges of the highest scores; the number counts the actual ones, which lie on a path to the logits and can carry signal"],
  ["kl", "the divergence from the full model's next-token probabilities to the circuit's, in nats: 0 if they are the same, lower is better"],
  ["distance", "the same of one example: how far the circuit is from the full model there (kl, unless the task has another distance)"],
  ["full, empty", "the model itself, and the circuit without any edge"],
  ["random, EAP", "circuits of the same size by which to judge this one: edges drawn at random, and those of edge attribution patching, a gradient estimate"],
  ["exact effect", "measured: the full model's metric minus that of the full model without this one edge"],
  ["clean, corrupted", "the prompt, and its twin from which an edge that is left out takes its value (if the ablation is interchange)"],
];
