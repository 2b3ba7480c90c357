// What the official npm client makes of our answers: node client.mjs BASE_URL. Prints one JSON object.

import OpenAI from "openai";

const api = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0, timeout: 10_000 });
const messages = [{ role: "user", content: "hello there" }];
const tools = [{ type: "function", function: { name: "tide", parameters: { type: "object", properties: {} } } }];

async function whole() {
  const answer = await api.chat.completions.create({ model: "echo", messages });
  return { text: answer.choices[0].message.content, tokens: answer.usage.total_tokens, id: answer._request_id };
}

async function streamed() {
  const stream = await api.chat.completions.create({
    model: "echo",
    messages,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let tokens = 0;
  let finish = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    finish = chunk.choices[0]?.finish_reason ?? finish;
    tokens = chunk.usage?.total_tokens ?? tokens;
  }
  return { text, tokens, finish };
}

async function toolCalls() {
  const answer = await api.chat.completions.create({ model: "tools", messages, tools });
  const runner = api.chat.completions.stream({ model: "tools", messages, tools });
  const gathered = await runner.finalChatCompletion();
  return {
    whole: answer.choices[0].message.tool_calls.map((call) => call.function),
    streamed: gathered.choices[0].message.tool_calls.map((call) => call.function),
    reason: gathered.choices[0].finish_reason,
  };
}

async function completions() {
  const answer = await api.completions.create({ model: "echo", prompt: "hello there", max_tokens: 1 });
  const stream = await api.completions.create({ model: "echo", prompt: "hello there", stream: true });
  let text = "";
  for await (const chunk of stream) {
    text += chunk.choices[0].text;
  }
  return { text: answer.choices[0].text, reason: answer.choices[0].finish_reason, streamed: text };
}

async function embeddings() {
  const input = ["hello there", "a tide table"];
  const usual = await api.embeddings.create({ model: "echo", input }); // asks for base64 by itself
  const floats = await api.embeddings.create({ model: "echo", input, encoding_format: "float" });
  const theirs = await api.embeddings.create({ model: "tools", input: "a" }); // whose backend has no base64
  const distance = usual.data[0].embedding.reduce((most, x, at) => {
    return Math.max(most, Math.abs(x - floats.data[0].embedding[at]));
  }, 0);
  return {
    lengths: usual.data.map((one) => one.embedding.length),
    distance,
    theirs: Array.from(theirs.data[0].embedding),
    tokens: usual.usage.prompt_tokens,
  };
}

async function refused(call) {
  try {
    await call();
    return null;
  } catch (error) {
    return { kind: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
}

async function models() {
  const names = [];
  for await (const model of api.models.list()) {
    names.push(model.id);
  }
  return names;
}

async function left() {
  const stream = await api.chat.completions.create({ model: "slow", messages, stream: true });
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta.content) {
      break; // which closes the connection
    }
  }
  return true;
}

const told = {
  whole: await whole(),
  streamed: await streamed(),
  tools: await toolCalls(),
  completions: await completions(),
  embeddings: await embeddings(),
  models: await models(),
  errors: {
    model: await refused(() => api.chat.completions.create({ model: "nope", messages })),
    role: await refused(() => api.chat.completions.create({ model: "echo", messages: [{ role: "wizard" }] })),
    input: await refused(() => api.embeddings.create({ model: "echo", input: "" })),
    tokens: await refused(() => api.completions.create({ model: "echo", prompt: [1, 2] })),
    backend: await refused(() => api.chat.completions.create({ model: "failing", messages })),
    stream: await refused(async () => {
      const stream = await api.chat.completions.create({ model: "breaking", messages, stream: true });
      for await (const _ of stream);
    }),
  },
  left: await left(),
};
console.log(JSON.stringify(told));
