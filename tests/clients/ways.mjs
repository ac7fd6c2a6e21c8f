// Talks to one server through one npm library, in every way that people use it.
//
// `node ways.mjs LIBRARY BASE_URL` prints one JSON object per line, as ways.py does.

const say = (way) => ({
  model: "served",
  messages: [{ role: "user", content: way }],
  max_tokens: 24,
  temperature: 0,
});

async function openai(base) {
  const { default: OpenAI } = await import("openai");
  const client = new OpenAI({ baseURL: base, apiKey: "none", maxRetries: 0 });
  return {
    whole: async (way) => {
      const done = await client.chat.completions.create(say(way));
      return [done.choices[0].message.content, done.emoguard];
    },
    stream: async (way) => {
      let text = "";
      let found;
      for await (const chunk of await client.chat.completions.create({ ...say(way), stream: true })) {
        found = chunk.emoguard ?? found;
        text += chunk.choices[0].delta.content ?? "";
      }
      return [text, found];
    },
    helper: async (way) => {
      const stream = client.chat.completions.stream(say(way));
      const done = await stream.finalChatCompletion();
      return [done.choices[0].message.content, done.emoguard];
    },
  };
}

async function langchain(base) {
  const { ChatOpenAI } = await import("@langchain/openai");
  const model = new ChatOpenAI({
    model: "served",
    apiKey: "none",
    maxTokens: 24,
    temperature: 0,
    maxRetries: 0,
    configuration: { baseURL: base },
  });
  return {
    whole: async (way) => [(await model.invoke(way)).content, undefined],
    stream: async (way) => {
      let text = "";
      for await (const chunk of await model.stream(way)) text += chunk.content;
      return [text, undefined];
    },
  };
}

async function ai(base) {
  const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
  const { generateText, streamText } = await import("ai");
  // The provider's own seam for what it does not know.
  const metadataExtractor = {
    extractMetadata: async ({ parsedBody }) => ({ served: { emoguard: parsedBody.emoguard } }),
    createStreamExtractor: () => {
      let emoguard;
      return {
        processChunk: (chunk) => {
          emoguard = chunk?.emoguard ?? emoguard;
        },
        buildMetadata: () => ({ served: { emoguard } }),
      };
    },
  };
  const provider = createOpenAICompatible({ name: "served", baseURL: base, metadataExtractor });
  const asked = (way) => ({
    model: provider.chatModel("served"),
    prompt: way,
    maxOutputTokens: 24,
    temperature: 0,
    maxRetries: 0,
  });
  return {
    whole: async (way) => {
      const done = await generateText(asked(way));
      return [done.text, done.providerMetadata?.served?.emoguard];
    },
    stream: async (way) => {
      const stream = streamText(asked(way));
      let text = "";
      for await (const piece of stream.textStream) text += piece;
      return [text, (await stream.providerMetadata)?.served?.emoguard];
    },
  };
}

const [library, base] = process.argv.slice(2);
const ways = await { openai, langchain, ai }[library](base);
for (const [name, go] of Object.entries(ways)) {
  const way = `${library} ${name}`;
  const [text, found] = await go(way);
  process.stdout.write(JSON.stringify({ way, text, emoguard: found ?? null }) + "\n");
}
