// The four calls that every client of these tests makes, for node and for browsers alike.
// `report` takes a name and a text; Python compares what was reported.

export const REQUEST = {
  prompt: "Once upon a time",
  return_full_text: false,
  generate_kwargs: { do_sample: false, max_new_tokens: 16 },
};

function post(url, path, fields) {
  return fetch(url + path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(fields),
  });
}

export async function submit(url) {
  const answer = await post(url, "/jobs", REQUEST);
  return new URL(answer.headers.get("Location"), url);
}

async function poll(url) {
  const location = await submit(url);
  for (let i = 0; i < 60; i++) {
    const job = await (await fetch(`${location}?wait=10`)).json();
    if (job.status === "succeeded") return job;
  }
  throw new Error("the job did not end");
}

export async function callAll(url, report) {
  report("chat", await (await post(url, "/chat", REQUEST)).text());

  const stream = await post(url, "/chat", { ...REQUEST, stream: true });
  const decoder = new TextDecoder();
  let events = "";
  for (const reader = stream.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    events += decoder.decode(value, { stream: true });
  }
  for (const line of events.split("\n")) {
    if (line.startsWith("data: ")) report("event", line.slice(6));
  }

  report("job", JSON.stringify(await poll(url)));

  const error = await post(url, "/chat", { ...REQUEST, nonsense: 1 });
  report("error", `${error.status} ${await error.text()}`);
}

export async function follow(EventSource, url, report) {
  const source = new EventSource(`${await submit(url)}/events`);
  await new Promise((resolve, reject) => {
    source.onmessage = (event) => {
      report("followed", event.data);
      if (JSON.parse(event.data).status) resolve();
    };
    source.onerror = () => reject(new Error("the events broke off"));
  });
  source.close();
}
