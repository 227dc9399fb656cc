// Leaky.java: a Java server on PORT that keeps LEAK_KIB (default 64) of each request, and LEAK_MIB_PER_SECOND (default 0) besides.
// Once the heap is full it answers no more: java -XX:+ExitOnOutOfMemoryError.
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Executors;

public class Leaky {
    private static final Queue<byte[]> KEPT = new ConcurrentLinkedQueue<>();

    private static void keep(int size) {
        byte[] block = new byte[size];
        Arrays.fill(block, (byte) 1);
        KEPT.add(block);
    }

    private static double number(String name, double otherwise) {
        String value = System.getenv(name);
        return value == null ? otherwise : Double.parseDouble(value);
    }

    public static void main(String[] words) throws Exception {
        int kept = (int) (number("LEAK_KIB", 64) * 1024);
        int perTenth = (int) (number("LEAK_MIB_PER_SECOND", 0) * 104858);
        String worker = System.getenv().getOrDefault("CLUSTERINIT_WORKER_ID", "null");
        byte[] body = String.format("{\"worker\":%s,\"pid\":%d}\n", worker, ProcessHandle.current().pid()).getBytes(StandardCharsets.UTF_8);
        HttpServer server = HttpServer.create(new InetSocketAddress((int) number("PORT", 8080)), 1024);
        server.createContext("/", exchange -> {
            keep(kept);
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
        while (perTenth > 0) {
            keep(perTenth);
            Thread.sleep(100);
        }
    }
}
