import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.stream.Stream;

/** The JDK's client with its defaults: it offers `Upgrade: h2c` on every call. */
class Client {
    static final HttpClient HTTP = HttpClient.newHttpClient();
    static final String REQUEST = "{\"prompt\": \"Once upon a time\", \"return_full_text\": false, "
        + "\"generate_kwargs\": {\"do_sample\": false, \"max_new_tokens\": 16}";

    public static void main(String[] args) throws Exception {
        URI api = URI.create(args[0]);
        report("chat", call(api, "/chat", "}").body());
        try (Stream<String> lines =
            HTTP.send(post(api, "/chat", ", \"stream\": true}"), BodyHandlers.ofLines()).body()) {
            lines.filter(line -> line.startsWith("data: "))
                .forEach(line -> report("event", line.substring(6)));
        }
        report("job", poll(api.resolve(
            call(api, "/jobs", "}").headers().firstValue("location").orElseThrow())));
        HttpResponse<String> error = call(api, "/chat", ", \"nonsense\": 1}");
        report("error", error.statusCode() + " " + error.body());
    }

    static String poll(URI job) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(job + "?wait=10")).build();
        for (int i = 0; i < 60; i++) {
            String body = HTTP.send(request, BodyHandlers.ofString()).body();
            if (body.contains("\"status\":\"succeeded\"")) {
                return body;
            }
        }
        throw new IllegalStateException("the job did not end");
    }

    static HttpResponse<String> call(URI api, String path, String rest) throws Exception {
        return HTTP.send(post(api, path, rest), BodyHandlers.ofString());
    }

    static HttpRequest post(URI api, String path, String rest) {
        return HttpRequest.newBuilder(api.resolve(path))
            .header("Content-Type", "application/json")
            .POST(BodyPublishers.ofString(REQUEST + rest))
            .build();
    }

    static void report(String name, String text) {
        System.out.println(name + "\t" + text);
    }
}
